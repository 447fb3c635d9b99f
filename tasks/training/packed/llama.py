"""Llama and its kin (Mistral, Qwen2) over packed rows: the model's own weights, the loss of the labelled tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM

from tasks.models.loading import length_switch
from tasks.training.packed.attention import Heads, attend
from tasks.training.packed.batch import PackedBatch
from tasks.training.packed.dropout import Streams
from tasks.training.packed.elementwise import rms_norm, swiglu
from tasks.training.packed.head import summed_nll
from tasks.training.packed.linear import MergedLinear

_FAMILY = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM)


@dataclass(frozen=True)
class _Layer:
    attention_norm: Any
    qkv: MergedLinear
    out: MergedLinear
    mlp_norm: Any
    gate_up: MergedLinear
    down: MergedLinear


class PackedLlama:
    """Computes the loss of a packed batch from the weights of `model`, which remain its own.

    With `recompute` a layer keeps only its input and is recomputed in the backward pass: the same numbers to the
    bit, dropout masks included, from less memory in more time (Chen et al. 2016, arXiv:1604.06174).
    """

    def __init__(self, model: PeftModel, recompute: bool = False) -> None:
        self._recompute = recompute
        causal: Any = model.get_base_model()
        body = causal.model
        self._embed, self._rotary, self._final_norm = body.embed_tokens, body.rotary_emb, body.norm
        self._head: nn.Parameter = causal.get_output_embeddings().weight
        for weight in causal.parameters():
            if not weight.requires_grad:
                # As loaded they are parts of a mapped file, which would stay in memory beside the merged weights.
                weight.data = weight.data.clone()
        self._layers = [_merged(layer) for layer in body.layers]
        attention, config = body.layers[0].self_attn, causal.config
        self._heads = Heads(
            config.num_attention_heads, config.num_key_value_heads, attention.head_dim, attention.scaling
        )

    def summed_nll(self, batch: PackedBatch, seeds: Sequence[int] | None = None) -> Tensor:
        """Return the sum, in nats and float32, of the labelled tokens' weighted negative log-likelihoods.

        `batch` is on the model's device. Everything but softmax, norms and angles is in the base weights' format.
        Dropout masks come from the rows' `seeds`; without, nothing is dropped. Threads may call it at the same time.
        """
        with torch.no_grad():
            hidden = self._embed(batch.input_ids)
            cos, sin = (part[0].chunk(2, dim=-1)[0] for part in self._rotary(hidden[None], batch.positions[None]))
        for number in range(len(self._layers)):
            through = partial(self._through, number, cos, sin, batch, seeds)
            keeping_all = not (self._recompute and torch.is_grad_enabled())
            hidden = (
                through(hidden)
                if keeping_all
                else checkpoint(through, hidden, use_reentrant=False, preserve_rng_state=False)
            )
        return summed_nll(_normed(self._final_norm, hidden), self._head, batch.targets, batch.weights)

    def _through(
        self, number: int, cos: Tensor, sin: Tensor, batch: PackedBatch, seeds: Sequence[int] | None, hidden: Tensor
    ) -> Tensor:
        """Return what a layer makes of `hidden`."""
        layer = self._layers[number]
        streams = None if seeds is None else Streams.of(seeds, batch.lengths, number, hidden.device)
        qkv = layer.qkv(hidden, streams, partial(_normed, layer.attention_norm))
        mixed = attend(qkv, cos, sin, batch.lengths, self._heads)
        if number == len(self._layers) - 1:
            # What comes after the last attention matters only where a token is predicted.
            hidden, mixed = hidden[batch.predicting], mixed[batch.predicting]
            streams = streams and streams.shortened(batch.predicted)
        hidden = hidden + layer.out(mixed, streams)
        gate_up = layer.gate_up(hidden, streams, partial(_normed, layer.mlp_norm))
        return hidden + layer.down(gate_up, streams, swiglu)


def _normed(norm: Any, hidden: Tensor) -> Tensor:
    return rms_norm(hidden, norm.weight, norm.variance_epsilon)


def _merged(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        layer.input_layernorm,
        MergedLinear([attention.q_proj, attention.k_proj, attention.v_proj]),
        MergedLinear([attention.o_proj]),
        layer.post_attention_layernorm,
        MergedLinear([mlp.gate_proj, mlp.up_proj]),
        MergedLinear([mlp.down_proj]),
    )


def is_supported(model: PeftModel) -> bool:
    """Return whether `PackedLlama` computes what `model` does: a family member, plain LoRA, one adapter that trains."""
    causal: Any = model.get_base_model()
    config = causal.config
    return (
        type(causal) in _FAMILY
        and config.hidden_act == "silu"
        and not config.attention_dropout
        and not _has_sliding_window(causal)
        # What it rotates by depends on a text's length, and is kept in the module that all threads share.
        and length_switch(config) is None
        and list(model.peft_config) == ["default"]
        and all(_is_plain(module) for module in causal.modules() if isinstance(module, LoraLayer))
    )


def _has_sliding_window(causal: Any) -> bool:
    return getattr(causal.config, "sliding_window", None) is not None


def _is_plain(layer: LoraLayer) -> bool:
    """Return whether a layer's update is scale · B A x of a plain linear layer, without a variant such as DoRA."""
    return (
        type(layer) is LoraLinear
        and type(layer.base_layer) is nn.Linear
        and not layer.lora_variant
        and not any(layer.lora_bias.values())
        and not layer.merged
        and not layer.disable_adapters
    )
