"""The sizes of a decoder and the names of its products, from its configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PretrainedConfig

Family = Literal["llama", "gpt2"]
ProductName = Literal["qkv", "output", "up", "down"]

_STATIC_ROPE = {"default", "linear", "llama3", "yarn"}
"""Kinds of rotary positions whose frequencies do not depend on the length of the text."""


@dataclass(frozen=True)
class ProductShape:
    """A matrix product of a layer: its inputs, and the modules that make it up (name within the layer, outputs)."""

    inputs: int
    parts: tuple[tuple[str, int], ...]

    @property
    def outputs(self) -> int:
        """Outputs of all parts together."""
        return sum(outputs for _, outputs in self.parts)


@dataclass(frozen=True)
class Shape:
    """Sizes of one decoder of a family that this package computes itself."""

    family: Family
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    epsilon: float
    layer_prefix: str
    """Name of layer 0 in transformers' model up to its number."""
    products: Mapping[ProductName, ProductShape]


def shape_of(config: PretrainedConfig) -> Shape | None:
    """Return the sizes, or None for an architecture, or a variant of one, that this package does not compute."""
    match config.model_type:
        case "llama" | "mistral" | "qwen2":
            return _llama(config)
        case "gpt2":
            return _gpt2(config)
    return None


def _llama(config: PretrainedConfig) -> Shape | None:
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    layer_types = getattr(config, "layer_types", None) or []
    slides = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if config.hidden_act not in ("silu", "swish") or rope.get("rope_type", "default") not in _STATIC_ROPE:
        return None
    if slides or any(kind != "full_attention" for kind in layer_types):
        return None
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    attention = (("self_attn.q_proj", queries), ("self_attn.k_proj", keys), ("self_attn.v_proj", keys))
    inner = config.intermediate_size
    return Shape(
        family="llama",
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        vocabulary=config.vocab_size,
        epsilon=config.rms_norm_eps,
        layer_prefix="model.layers.",
        products={
            "qkv": ProductShape(config.hidden_size, attention),
            "output": ProductShape(queries, (("self_attn.o_proj", config.hidden_size),)),
            "up": ProductShape(config.hidden_size, (("mlp.gate_proj", inner), ("mlp.up_proj", inner))),
            "down": ProductShape(inner, (("mlp.down_proj", config.hidden_size),)),
        },
    )


def _gpt2(config: PretrainedConfig) -> Shape | None:
    if config.activation_function not in ("gelu_new", "gelu_pytorch_tanh"):
        return None
    if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx or config.add_cross_attention:
        return None
    width, inner = config.n_embd, config.n_inner or 4 * config.n_embd
    return Shape(
        family="gpt2",
        layers=config.n_layer,
        heads=config.n_head,
        kv_heads=config.n_head,
        head_dim=width // config.n_head,
        vocabulary=config.vocab_size,
        epsilon=config.layer_norm_epsilon,
        layer_prefix="transformer.h.",
        products={
            "qkv": ProductShape(width, (("attn.c_attn", 3 * width),)),
            "output": ProductShape(width, (("attn.c_proj", width),)),
            "up": ProductShape(width, (("mlp.c_fc", inner),)),
            "down": ProductShape(inner, (("mlp.c_proj", width),)),
        },
    )
