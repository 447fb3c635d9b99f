"""The weights of a decoder, taken out of transformers' model: q/k/v and gate/up are merged into one matrix each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tasks.inference.network.shape import ProductName, ProductShape, Shape


@dataclass(frozen=True)
class Affine:
    """A weight and perhaps a bias: of a product (`[outputs, inputs]`) or of a norm (`[width]`)."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Layer:
    """One decoder layer: the norms before attention and before the MLP, and its four products."""

    attention_norm: Affine
    mlp_norm: Affine
    products: Mapping[ProductName, Affine]


@dataclass(frozen=True)
class Weights:
    """All tensors of a decoder. `inverse_frequencies` (float32) belongs to Llama, `positions` to GPT-2."""

    embedding: Tensor
    positions: Tensor | None
    inverse_frequencies: Tensor | None
    rotary_scale: float
    layers: list[Layer]
    final_norm: Affine
    head: Tensor

    @property
    def bytes(self) -> int:
        """Bytes of the tensors; a head tied to the embedding counts once."""
        tensors = [self.embedding, self.positions, self.final_norm.weight, self.final_norm.bias]
        if self.head.data_ptr() != self.embedding.data_ptr():
            tensors.append(self.head)
        for layer in self.layers:
            for affine in (layer.attention_norm, layer.mlp_norm, *layer.products.values()):
                tensors += [affine.weight, affine.bias]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def take_weights(model: PreTrainedModel, shape: Shape) -> Weights:
    """Take the weights out of `model`, which is unusable afterwards, so that no tensor stays in memory twice."""
    inside: Any
    with torch.no_grad():
        if shape.family == "gpt2":
            inside = model.transformer
            final_norm, embedding = _affine(inside.ln_f), inside.wte.weight
            positions, frequencies, scale = inside.wpe.weight.detach(), None, 1.0
            norms = ("ln_1", "ln_2")
        else:
            inside = model.model
            final_norm, embedding = _affine(inside.norm), inside.embed_tokens.weight
            rotary = inside.rotary_emb
            positions, frequencies, scale = None, rotary.inv_freq.float(), float(rotary.attention_scaling)
            norms = ("input_layernorm", "post_attention_layernorm")
        layers = []
        for number in range(shape.layers):
            module = model.get_submodule(f"{shape.layer_prefix}{number}")
            products = {name: _merged(module, product) for name, product in shape.products.items()}
            before, between = (_affine(module.get_submodule(name)) for name in norms)
            layers.append(Layer(before, between, products))
        head = model.get_output_embeddings().weight.detach()
        return Weights(embedding.detach(), positions, frequencies, scale, layers, final_norm, head)


def _affine(module: nn.Module) -> Affine:
    weight: Tensor = module.weight  # type: ignore[assignment]
    bias = getattr(module, "bias", None)
    return Affine(weight.detach(), None if bias is None else bias.detach())


def _merged(layer: nn.Module, product: ProductShape) -> Affine:
    """Return the product's parts as one matrix, and free the parts."""
    modules: list[Any] = [layer.get_submodule(name) for name, _ in product.parts]
    weights = [module.weight.t() if isinstance(module, Conv1D) else module.weight for module in modules]
    merged = Affine(
        torch.cat([weight.detach() for weight in weights]).contiguous(),
        None if modules[0].bias is None else torch.cat([module.bias.detach() for module in modules]),
    )
    for module in modules:
        module.weight = nn.Parameter(torch.empty(0), requires_grad=False)
    return merged
