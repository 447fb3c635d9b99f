"""A Llama as a GGUF file, in float32, and the check that its logits are the same once it is read back.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Programs that quantize start from such a file.
"""

import json
from pathlib import Path
from typing import Any

import torch
from gguf import (
    MODEL_ARCH,
    GGUFWriter,
    LlamaFileType,
    TokenType,
    get_tensor_name_map,
)
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tasks.data.template import turn_end_ids
from tasks.models.process_state import loading

ARCHITECTURE = "llama"
SAMPLE = "def area(radius): return 3.14159 * radius ** 2  # It's a circle, isn't it? 12 345\n\nÜber π."
"""Words, digits, signs and other scripts: what tokenizers and positions may get wrong shows in it."""
SPLITTERS = {("ByteLevel",): "gpt-2", ("Digits", "ByteLevel"): "smollm"}
"""llama.cpp's name for how a byte-level tokenizer cuts text into words, by the tokenizer's own steps."""


class GgufImpossible(Exception):
    """The model can't be written as a GGUF file; the message says why."""


def write_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context_length: int, file: Path) -> None:
    """Write weights, settings, tokenizer and chat template into one file; the weights are written as float32.

    Raises `GgufImpossible` for another architecture than Llama's, or a tokenizer that is not byte-level BPE.
    """
    config = model.config
    if config.model_type != ARCHITECTURE:
        raise GgufImpossible(f"GGUF is written for llama, and this model is of the family {config.model_type}.")
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise GgufImpossible(f"its positions are scaled ({rope['rope_type']}), which is not written as GGUF.")
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    splitter = _splitter(vocabulary)
    writer = GGUFWriter(file, ARCHITECTURE)
    try:
        _add_settings(writer, config, context_length, rope["rope_theta"])
        _add_tokenizer(writer, tokenizer, vocabulary, splitter, config.vocab_size)
        _add_tensors(writer, model)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def largest_difference(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path) -> float:
    """Return the largest absolute difference between the file's logits, read by transformers, and the model's.

    Raises `GgufImpossible` if the file's tokenizer gives other ids.
    """
    read = {"gguf_file": file.name, "local_files_only": True}
    ids = tokenizer(SAMPLE, add_special_tokens=False, return_tensors="pt")["input_ids"]
    again = AutoTokenizer.from_pretrained(file.parent, **read)(SAMPLE, add_special_tokens=False)["input_ids"]
    if ids[0].tolist() != again:
        raise GgufImpossible("the tokenizer in the GGUF file cuts a text into other tokens.")
    with loading():
        other = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **read
        ).eval()
    with torch.inference_mode():
        difference: Tensor = (other(ids).logits - model(ids).logits).abs().max()
    return float(difference)


def _add_settings(writer: GGUFWriter, config: PretrainedConfig, context_length: int, rope_theta: float) -> None:
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_width)
    writer.add_value_length(head_width)
    writer.add_rope_dimension_count(head_width)
    writer.add_rope_freq_base(rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(LlamaFileType.ALL_F32)


def _add_tokenizer(
    writer: GGUFWriter,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: dict[str, Any],
    splitter: str,
    size: int,
) -> None:
    # The embedding may have more rows than there are tokens.
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds = [TokenType.UNUSED] * size
    for token, number in vocabulary["model"]["vocab"].items():
        tokens[number], kinds[number] = token, TokenType.NORMAL
    for added in vocabulary["added_tokens"]:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        tokens[added["id"]], kinds[added["id"]] = added["content"], kind
    merges = vocabulary["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitter)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    for add, number in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_eot_token_id, next(iter(turn_end_ids(tokenizer)), None)),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if number is not None:
            add(number)
    begun = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(begun[0] == tokenizer.bos_token_id)
    writer.add_add_space_prefix(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _splitter(vocabulary: dict[str, Any]) -> str:
    """Return llama.cpp's name for the tokenizer's way to cut text; raises `GgufImpossible` if it knows none."""
    cutter = vocabulary["pre_tokenizer"] or {"type": "none"}
    steps = tuple(step["type"] for step in cutter.get("pretokenizers", [cutter]))
    if vocabulary["model"]["type"] != "BPE" or vocabulary["normalizer"] is not None or steps not in SPLITTERS:
        raise GgufImpossible(
            f"its tokenizer ({vocabulary['model']['type']}, {' and '.join(steps)}) is none of those that are written "
            "as GGUF: byte-level BPE like GPT-2's or SmolLM's."
        )
    return SPLITTERS[steps]


def _add_tensors(writer: GGUFWriter, model: PreTrainedModel) -> None:
    config = model.config
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    tied = config.tie_word_embeddings
    for name, weight in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if written is None:
            raise GgufImpossible(f"GGUF has no name for its tensor {name}.")
        layer = name.rpartition(".")[0].rpartition(".")[2]
        tensor = _interleaved(weight, heads[layer]) if layer in heads else weight
        writer.add_tensor(written, tensor.to(torch.float32).contiguous().numpy())


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """Return rows of each head, [half, pair] in transformers, as [pair, half]: how llama.cpp rotates positions."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
