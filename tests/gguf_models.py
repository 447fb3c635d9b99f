"""Tiny models written as GGUF files, by llama.cpp's names and layout, without the platform's own code."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, TokenType, get_tensor_name_map
from gguf.quants import quantize
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

F32 = GGMLQuantizationType.F32
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 128,
}


def tiny_model(architecture: str, vocabulary: int, **changed: object) -> PreTrainedModel:
    """Return a model of random weights whose norms and biases are not those that a new one has."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(architecture, vocab_size=vocabulary, **(SHAPE | changed))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for values in model.parameters():
            if values.dim() == 1:
                values.add_(torch.randn_like(values) * 0.2)
    return model


def write(
    file: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    stored: GGMLQuantizationType = F32,
    splitter: str = "gpt-2",
    add_bos: bool = False,
    metadata: Mapping[str, float | str] | None = None,
) -> None:
    """Write the model and its tokenizer; matrices are stored as asked, the rest in float32.

    `splitter` and `add_bos` are of byte-level tokenizers.
    """
    config = model.config
    architecture = config.model_type
    writer = GGUFWriter(file, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    for key, value in (metadata or {}).items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        add(key, value)
    _write_tokenizer(writer, tokenizer, splitter, add_bos)
    names = get_tensor_name_map(MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    for name, values in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        own = names.get_name(name, try_suffixes=(".weight", ".bias"))
        numbers = values.numpy()
        if architecture == "llama" and (".attn_q." in own or ".attn_k." in own):
            heads = config.num_attention_heads if ".attn_q." in own else config.num_key_value_heads
            # Adjacent pairs are rotated there, halves here.
            halves = numbers.reshape(heads, 2, len(numbers) // heads // 2, *numbers.shape[1:])
            numbers = halves.swapaxes(1, 2).reshape(numbers.shape)
        kind = stored if numbers.ndim == 2 else F32
        writer.add_tensor(own, quantize(np.ascontiguousarray(numbers), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, splitter: str, add_bos: bool) -> None:
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {added["id"] for added in vocabulary["added_tokens"]}
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    kinds = [TokenType.CONTROL if number in special else TokenType.NORMAL for number in range(len(tokens))]
    writer.add_token_list(tokens)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
    if "<0x00>" in tokens:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores([-float(number) for number in range(len(tokens))])
        for number, token in enumerate(tokens):
            if token.startswith("<0x"):
                kinds[number] = TokenType.BYTE
        writer.add_token_types(kinds)
        return
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitter)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in vocabulary["model"]["merges"]])
    writer.add_add_bos_token(add_bos)
