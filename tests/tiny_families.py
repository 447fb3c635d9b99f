"""A tiny random model of every family that is supported: its sizes, and weights that make a text worth comparing."""

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from tests.tiny_models import CHAT_TEMPLATE, byte_level_tokenizer

VOCABULARY = 416
WINDOW = 16
"""Of layers that see only the nearest tokens: shorter than the tests' prompts."""
_IDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# A model's own dropout would hide what the tests compare.
_LLAMA_LIKE = _IDS | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "attention_dropout": 0.0,
}
_SLIDING = {"sliding_window": WINDOW}
_BOTH_KINDS = {"layer_types": ["sliding_attention", "full_attention"]}
_WIDE = {"head_dim": 8}
_GPT_LIKE = _IDS | {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
}
_UNDROPPED = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
_EXPERTS = _LLAMA_LIKE | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_LOCAL_EXPERTS = _LLAMA_LIKE | {"num_local_experts": 4, "num_experts_per_tok": 2}
_GEMMA3 = _LLAMA_LIKE | _WIDE | _SLIDING | _BOTH_KINDS | {"query_pre_attn_scalar": 8}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
SWITCH = 32
"""Tokens from which on the models with longrope take their long factors: inside the tests' texts."""


def _rope(kind: str, **fields: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10_000.0, "rope_type": kind} | fields}


def _longrope(pairs: int, **fields: Any) -> dict[str, Any]:
    factors = {"short_factor": [1.0 + 0.1 * i for i in range(pairs)], "long_factor": [1.0 + i for i in range(pairs)]}
    original = {"original_max_position_embeddings": SWITCH}
    return original | _rope("longrope", **factors, **original, **fields)


FAMILIES: dict[str, dict[str, Any]] = {
    "apertus": _LLAMA_LIKE,
    "arcee": _LLAMA_LIKE,
    "biogpt": _LLAMA_LIKE
    | _UNDROPPED
    | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "layerdrop": 0.0},
    "bloom": _IDS | {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "codegen": _GPT_LIKE | {"rotary_dim": 4},
    "cohere": _LLAMA_LIKE | {"logit_scale": 1.0},
    "cohere2": _LLAMA_LIKE | _SLIDING | _BOTH_KINDS | {"logit_scale": 1.0},
    "ernie4_5": _LLAMA_LIKE | _WIDE,
    "exaone4": _LLAMA_LIKE | _SLIDING | _BOTH_KINDS,
    "falcon": _IDS | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "gemma": _LLAMA_LIKE | _WIDE,
    "gemma2": _LLAMA_LIKE | _WIDE | _SLIDING | _BOTH_KINDS | {"query_pre_attn_scalar": 8},
    "gemma3": {
        "text_config": _GEMMA3 | {"tie_word_embeddings": True},
        "vision_config": _VISION,
        "mm_tokens_per_image": 1,
    }
    | {"image_token_index": 410, "boi_token_index": 411, "eoi_token_index": 412},
    "gemma3_text": _GEMMA3,
    "glm": _LLAMA_LIKE | _WIDE,
    "glm4": _LLAMA_LIKE | _WIDE,
    "gpt2": _GPT_LIKE,
    "gpt_bigcode": _GPT_LIKE,
    "gpt_neo": _IDS
    | {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 128, "window_size": WINDOW}
    | {"attention_types": [[["global", "local"], 1]]},
    "gpt_neox": _LLAMA_LIKE,
    "gpt_oss": _LOCAL_EXPERTS | _WIDE | _SLIDING | _BOTH_KINDS,
    "gptj": _GPT_LIKE | {"rotary_dim": 4},
    "granite": _LLAMA_LIKE,
    "granitemoe": _LOCAL_EXPERTS,
    "helium": _LLAMA_LIKE | _WIDE,
    "hunyuan_v1_dense": _LLAMA_LIKE | _WIDE,
    "llama": _LLAMA_LIKE,
    "ministral3": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE | _SLIDING,
    "mixtral": _LOCAL_EXPERTS,
    "mpt": _IDS | {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},
    "nemotron": _LLAMA_LIKE,
    "olmo": _LLAMA_LIKE,
    "olmo2": _LLAMA_LIKE,
    "olmo3": _LLAMA_LIKE | _SLIDING | _BOTH_KINDS,
    "olmoe": _LLAMA_LIKE | {"num_experts": 4, "num_experts_per_tok": 2},
    "opt": _IDS
    | _UNDROPPED
    | {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"max_position_embeddings": 128},
    "persimmon": _LLAMA_LIKE,
    "phi": _LLAMA_LIKE,
    "phi3": _LLAMA_LIKE | {"original_max_position_embeddings": 128},
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE | _WIDE,
    "qwen3_moe": _EXPERTS | _WIDE,
    "seed_oss": _LLAMA_LIKE | _WIDE | {"residual_dropout": 0.0},
    "smollm3": _LLAMA_LIKE,
    "stablelm": _LLAMA_LIKE,
    "starcoder2": _LLAMA_LIKE | _SLIDING | {"residual_dropout": 0.0, "embedding_dropout": 0.0},
    "xglm": _IDS
    | _UNDROPPED
    | {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 128},
}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, rope linear": ("llama", _rope("linear", factor=2.0)),
    "llama, rope llama3": (
        "llama",
        _rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
    ),
    "llama, rope yarn": ("llama", _rope("yarn", factor=2.0, original_max_position_embeddings=64)),
    "llama, rope dynamic": ("llama", _rope("dynamic", factor=2.0)),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "phi3, rope longrope": ("phi3", _longrope(4)),
    "phi3 as Phi-4-mini": ("phi3", _longrope(3, partial_rotary_factor=0.75) | {"tie_word_embeddings": True}),
}
"""Models of a family that their own code treats otherwise: the family, and what is added to its sizes."""


def tiny_model(family: str, **fields: Any) -> PreTrainedModel:
    """Return a model with large random weights: those of a fresh one say the same of every text."""
    torch.manual_seed(0)
    family, added = VARIANTS.get(family, (family, {}))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        CONFIG_MAPPING[family](**FAMILIES[family] | added | fields)
    )
    embeddings = {id(weight) for weight in model.get_input_embeddings().parameters()}
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() < 2:
                weight.add_(0.1 * torch.randn(weight.shape))
            else:  # small embeddings: a tied head would else answer with the token that it was given
                weight.normal_(std=0.02 if id(weight) in embeddings else 0.3)
    return model


WIDER = ("hidden_size", "intermediate_size", "moe_intermediate_size", "head_dim", "n_embd", "d_model", "ffn_dim")
MORE_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
LONGER = ("max_position_embeddings", "n_positions", "max_seq_len", "sliding_window", "window_size")


def sized_model(
    name: str, dtype: torch.dtype, *, width: int, layers: int, vocabulary: int, **others: Any
) -> PreTrainedModel:
    """Return a model as `tiny_model`'s, `width` times as wide, with so many layers (an even number) and tokens."""
    family, added = VARIANTS.get(name, (name, {}))

    def sized(fields: dict[str, Any]) -> dict[str, Any]:
        factors = dict.fromkeys([*WIDER, "word_embed_proj_dim", "rotary_dim"], width) | dict.fromkeys(LONGER, 16)
        new = {
            field: value * factors[field] if field in factors else value
            for field, value in fields.items()
            if value is not None
        }
        new |= {field: layers for field in MORE_LAYERS if field in fields}
        new |= {"vocab_size": vocabulary} if "vocab_size" in fields else {}
        new |= {"layer_types": fields["layer_types"] * (layers // 2)} if "layer_types" in fields else {}
        return new

    fields = sized(FAMILIES[family] | added | others)
    if "attention_types" in fields:
        fields["attention_types"] = [[["global", "local"], layers // 2]]
    if "text_config" in fields:
        fields["text_config"] = sized(fields["text_config"])
    if "rope_parameters" in fields:
        rope = fields["rope_parameters"]
        fields["rope_parameters"] = rope | {
            key: rope[key] * width for key in rope if key.endswith("_factor") and isinstance(rope[key], list)
        }
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**fields), dtype=dtype)


def save_family(family: str, folder: Path, **fields: Any) -> Path:
    """Save `tiny_model` in `folder`, and a tokenizer with a chat template."""
    tiny_model(family, **fields).save_pretrained(folder)
    byte_level_tokenizer("<|im_end|>", ["<|im_start|>"], CHAT_TEMPLATE).save_pretrained(folder)
    return folder
