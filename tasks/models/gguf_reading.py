"""A GGUF file's model as a folder of safetensors, as every part of the platform reads models.

Tensors are unpacked one at a time, so that no more than one file of weights is in memory, and each has to have a place
in the model that transformers builds by the settings, as each place has to have its tensor: what would be left out or
made up is an error. `registry.gguf_file` has refused before what its header tells of.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, GGUFReader, ReaderTensor, get_tensor_name_map
from gguf.quants import dequantize
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from registry.gguf_file import GgufHeader, gguf_defect, read_header
from registry.model_folder import INDEX
from tasks.models.loading import load_tokenizer
from tasks.models.process_state import loading

SHARD_BYTES = 2 * 1024**3
SAMPLE = "def area(radius): return 3.14159 * radius ** 2  # It's a circle, isn't it?  12 345\n\n1. Über π.\n\t  x"
"""Words, digits, signs, white space and other scripts: what a saved tokenizer may get wrong shows in it."""
_ARCHITECTURES = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2, "qwen3": MODEL_ARCH.QWEN3}
_TURNED = (".attn_q.", ".attn_k.")
"""Of llama: its rows are stored interleaved, as llama.cpp rotates adjacent pairs where transformers rotates halves."""
_DIGIT_BY_DIGIT = ("smollm",)


class GgufUnfit(Exception):
    """The file can't be converted as it is; the message says why, in a clause."""


def convert(file: Path, folder: Path) -> PreTrainedTokenizerBase:
    """Write the file's model into `folder`, which is empty: weights, settings and tokenizer. Return the tokenizer.

    Raises `GgufUnfit` if anything would be left out or made up; `folder` is then to be thrown away.
    """
    if (reason := gguf_defect(file.parent)) is not None:
        raise GgufUnfit(reason)
    header = read_header(file)
    dtype: torch.dtype = getattr(torch, header.dtype)
    tokenizer = read_tokenizer(file, header)
    config = _config(header, tokenizer)
    config.dtype = dtype
    _write_weights(GGUFReader(file), header, config, dtype, folder)
    config.save_pretrained(folder)
    ends = [header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    GenerationConfig(
        bos_token_id=config.bos_token_id,
        pad_token_id=config.pad_token_id,
        eos_token_id=sorted({end for end in ends if end is not None}) or None,
    ).save_pretrained(folder)
    for option in ("local_files_only", "is_local"):  # how it was read here, not what it is
        tokenizer.init_kwargs.pop(option, None)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    saved = load_tokenizer(folder)
    if saved(SAMPLE)["input_ids"] != tokenizer(SAMPLE)["input_ids"]:
        raise GgufUnfit(f"{file}'s tokenizer cuts a text otherwise once it is saved")
    return tokenizer


def read_tokenizer(file: Path, header: GgufHeader) -> PreTrainedTokenizerBase:
    """Return the file's tokenizer; raises `GgufUnfit` if it does not begin texts as the file says."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True
    )
    if header.metadata.get("tokenizer.ggml.pre") in _DIGIT_BY_DIGIT:
        # transformers knows no splitter of that name, and leaves the digits in the words.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    begins = header.metadata.get("tokenizer.ggml.add_bos_token", header.metadata["tokenizer.ggml.model"] == "llama")
    first = tokenizer("a")["input_ids"][0]
    if begins is not (first == tokenizer.bos_token_id):
        raise GgufUnfit(f"{file} says add_bos_token: {str(begins).lower()}, and its tokenizer does otherwise")
    return tokenizer


def _config(header: GgufHeader, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    def setting(name: str, default: Any = None) -> Any:
        return header.metadata.get(f"{header.architecture}.{name}", default)

    heads = setting("attention.head_count")
    width = setting("attention.key_length", setting("rope.dimension_count", setting("embedding_length") // heads))
    for name in ("attention.value_length", "rope.dimension_count"):
        if setting(name, width) != width:
            raise GgufUnfit(f"its {name} is {setting(name)}, and its heads are {width} wide")
    return AutoConfig.for_model(
        header.architecture,
        architectures=[f"{header.architecture.capitalize()}ForCausalLM"],
        vocab_size=next(shape[1] for name, shape in header.shapes.items() if name.startswith("token_embd.")),
        hidden_size=setting("embedding_length"),
        intermediate_size=setting("feed_forward_length"),
        num_hidden_layers=setting("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=setting("attention.head_count_kv", heads),
        head_dim=width,
        max_position_embeddings=setting("context_length"),
        rms_norm_eps=_decimal(setting("attention.layer_norm_rms_epsilon")),
        rope_parameters={"rope_type": "default", "rope_theta": setting("rope.freq_base", 10000.0)},
        tie_word_embeddings="output.weight" not in header.shapes,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _decimal(number: float) -> float:
    """Return the number that was meant: for 1e-5 the file has its nearest in float32, 9.999999747378752e-06."""
    return float(str(np.float32(number)))


def _write_weights(
    reader: GGUFReader, header: GgufHeader, config: PretrainedConfig, dtype: torch.dtype, folder: Path
) -> None:
    with torch.device("meta"), loading():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    places = dict(model.state_dict())
    if config.tie_word_embeddings:
        del places["lm_head.weight"]
    names = get_tensor_name_map(_ARCHITECTURES[header.architecture], config.num_hidden_layers)
    own = {_own_name(names, name): name for name in places}
    stored = {tensor.name: tensor for tensor in reader.tensors}
    if strange := sorted(stored.keys() ^ own.keys()):
        raise GgufUnfit(f"{strange[0]} is not in {'the model' if strange[0] in stored else 'the file'}")
    there = {place: stored[name] for name, place in own.items()}
    shards = split_torch_state_dict_into_shards(places, max_shard_size=SHARD_BYTES)
    for file_name, inside in shards.filename_to_tensors.items():
        unpacked = {}
        for name in inside:
            unpacked[name] = _unpacked(there[name], header, config).to(dtype).contiguous()
            if unpacked[name].shape != places[name].shape:
                raise GgufUnfit(f"{there[name].name} has the shape {tuple(unpacked[name].shape)}")
        save_file(unpacked, folder / file_name, metadata={"format": "pt"})
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _own_name(names: Any, place: str) -> str:
    own: str | None = names.get_name(place, try_suffixes=(".weight", ".bias"))
    if own is None:
        raise GgufUnfit(f"GGUF has no name for {place}")
    return own


def _unpacked(tensor: ReaderTensor, header: GgufHeader, config: PretrainedConfig) -> Tensor:
    """Return a tensor's values in float32, `[rows, columns]` as transformers has them."""
    values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=True))
    if header.architecture != "llama" or not any(part in tensor.name for part in _TURNED):
        return values
    heads = config.num_attention_heads if _TURNED[0] in tensor.name else config.num_key_value_heads
    half = len(values) // heads // 2
    return values.reshape(heads, half, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
