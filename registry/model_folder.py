"""A base model's folder as it lies on disk: whether it can be loaded, and if not why; sizes from its headers alone.

Imports no tensors and no services: the API asks before it names a model available, the loader before it loads.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from registry.adapter_folder import adapter_defect, base_of, is_adapter
from registry.gguf_file import gguf_defect, gguf_files
from registry.model_families import WITH_VISION, refusal

INDEX = "model.safetensors.index.json"
PICKLED = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "*.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.tiktoken",
    "tekken.json",
    "tokenizer_config.json",
)
"""A tokenizer's files by their names; which of them a tokenizer needs, only its own code knows."""

OTHER_HEAD = re.compile(r"For(?!CausalLM)[A-Z]")
"""In a class's name, such as LlamaForSequenceClassification: another head than the one that predicts the next token."""
SEES = "ForConditionalGeneration"
"""In a class's name: a decoder with something before it, such as a vision tower."""
FULL_WEIGHTS = {
    "mxfp4": "take a copy in bfloat16, or write one: load it with transformers' Mxfp4Config(dequantize=True), save it"
}
"""By the kind of quantization: how to come by weights that are not quantized, where it is no other checkpoint."""

Signature = tuple[tuple[str, int, int], ...]


def holds_anything(folder: Path) -> bool:
    """Return whether somebody has put a model, or a part of one, in `folder`."""
    return folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir())


def defect(folder: Path) -> str | None:
    """Return why the model in `folder` can't be used, in a sentence without its full stop; None if it can.

    Reads headers and JSON only, and again only when a file has changed.
    """
    return weights_defect(folder) or _found(_defect_of_tokenizer, folder)


def weights_defect(folder: Path) -> str | None:
    """Return what `defect` returns, but for what is said of the tokenizer, which may lie elsewhere."""
    return _found(_defect_of_config, folder) or _found(_defect_of_weights, folder)


def lasting_defect(folder: Path) -> str | None:
    """Return what `defect` returns of the kind of model that it is: fetching it once more would mend nothing."""
    return _found(_defect_of_kind, folder)


def convertible_gguf(folder: Path) -> Path | None:
    """Return the GGUF file that a folder holds instead of safetensors, if its model can be converted."""
    if not folder.is_dir() or (folder / "config.json").is_file() or is_adapter(folder) or not gguf_files(folder):
        return None
    return gguf_files(folder)[0] if _found(gguf_defect, folder) is None else None


def _found(look: Callable[[Path], str | None], folder: Path) -> str | None:
    try:
        return _looked(look, folder, _signature(folder))
    except (FileNotFoundError, NotADirectoryError):
        return f"there is no folder {folder}"
    except OSError as error:
        return f"{folder} can't be read: {error}"


def weight_files(folder: Path) -> list[Path]:
    """Return the model's safetensors files by the names that transformers knows; none where there are no such names."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not (folder / INDEX).is_file():
        return []
    named: dict[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    return sorted(folder / name for name in set(named.values()))


def weight_shapes(file: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield name and shape of each tensor; raises `SafetensorError` or OSError for a file that is cut or damaged."""
    with safe_open(file, framework="np") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a dict, it can't be iterated
            yield name, tensors.get_slice(name).get_shape()


def count_parameters(folder: Path) -> int:
    """Return the number of parameters in the safetensors files of `folder`, read from their headers alone."""
    return _parameters(folder, _signature(folder))


@lru_cache(maxsize=256)
def _parameters(folder: Path, _signature: Signature) -> int:
    return sum(
        prod(shape)
        for file in weight_files(folder)
        for name, shape in weight_shapes(file)
        # Old GPT-2 exports carry their causal masks as tensors.
        if not name.endswith((".attn.bias", ".attn.masked_bias"))
    )


@lru_cache(maxsize=1024)
def _looked(look: Callable[[Path], str | None], folder: Path, _signature: Signature) -> str | None:
    return look(folder)


def _defect_of_config(folder: Path) -> str | None:
    if not (folder / "config.json").is_file():
        return _defect_without_config(folder)
    if _object(folder / "config.json") is None:
        return f"{folder / 'config.json'} is not a JSON object: download the model again"
    return _defect_of_kind(folder)


def _defect_of_kind(folder: Path) -> str | None:
    config = _object(folder / "config.json") if (folder / "config.json").is_file() else None
    if config is None:
        return None
    if (quantization := config.get("quantization_config")) is not None:
        kind = quantization.get("quant_method") if isinstance(quantization, dict) else None
        way_out = FULL_WEIGHTS.get(str(kind), "take the model's checkpoint in bfloat16 or float16")
        return (
            f"the weights in {folder} are quantized ({kind or 'quantization_config'}), and only full ones are loaded: "
            f"{way_out}"
        )
    if (folder / "adapter_config.json").is_file():
        return (
            f"{folder} holds an adapter (adapter_config.json) beside the base's weights: move it to a folder of its "
            "own, or merge it"
        )
    return _defect_of_architecture(folder / "config.json", config)


def _defect_without_config(folder: Path) -> str:
    if not is_adapter(folder):
        if gguf_files(folder):
            return gguf_defect(folder) or f"the GGUF file in {folder} has not been converted yet"
        return f"{folder} has no config.json"
    if (reason := adapter_defect(folder)) is not None:
        return reason
    return (
        f"{folder} holds an adapter only (adapter_config.json), and not {base_of(folder) or 'the base model'}: it "
        "becomes a model when it is added while the base that it belongs to is in the models folder"
    )


def _defect_of_architecture(file: Path, config: dict[str, Any]) -> str | None:
    family = config.get("model_type")
    if not isinstance(family, str):
        return f"{file} names no model_type, so that nobody knows what the weights belong to"
    if (reason := refusal(family)) is not None:
        return f"{file} says that it is a model of the family {family}, which is not supported: {reason}"
    # With tied embeddings such weights would load, and continue texts that they have never learned to continue.
    others = [name for name in _architectures(config) if OTHER_HEAD.search(name)]
    if other := next((name for name in others if not (family in WITH_VISION and name.endswith(SEES))), None):
        return f"{file} says that it is a {other}, which is trained to do something else than to continue a text"
    return None


def _architectures(config: dict[str, Any]) -> list[str]:
    named = config.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _defect_of_weights(folder: Path) -> str | None:
    if not (folder / "model.safetensors").is_file() and (folder / INDEX).is_file():
        index = _object(folder / INDEX)
        named = index.get("weight_map") if index is not None else None
        if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
            return f"{folder / INDEX} is damaged: download the model again"
        if missing := sorted({name for name in named.values() if not (folder / name).is_file()}):
            return f"{folder / missing[0]} is missing though {INDEX} names it: download the model again"
    files = weight_files(folder)
    if not files:
        return _defect_without_weights(folder)
    for file in files:
        try:
            for _ in weight_shapes(file):
                pass
        except (OSError, SafetensorError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            return f"{file} is cut short or damaged ({reason}): download the model again"
    return None


def _defect_without_weights(folder: Path) -> str:
    if pickled := sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED):
        return (
            f"{folder} has no safetensors weights; it holds {pickled[0]}, and pickled weights are not loaded, as "
            "they can run code: convert the model"
        )
    if gguf := gguf_files(folder):
        return (
            f"{folder} has no safetensors weights, and its GGUF file {gguf[0].name} is not read beside a "
            "config.json: put the file into a folder of its own"
        )
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    beside = f", though it holds {others[0]}" if others else ""
    return f"{folder} has no model.safetensors or {INDEX}{beside}"


def _defect_of_tokenizer(folder: Path) -> str | None:
    if not any(next(folder.glob(pattern), None) for pattern in VOCABULARIES):
        return f"{folder} has no tokenizer (such as tokenizer.json)"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file() and _object(folder / name) is None:
            return f"{folder / name} is not a JSON object: download the model again"
    return None


def _object(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _signature(folder: Path) -> Signature:
    """Return what changes when a file of the folder does; raises OSError if there is no such folder."""
    found = []
    for file in folder.iterdir():
        if file.is_file():
            status = file.stat()
            found.append((file.name, status.st_mtime_ns, status.st_size))
    return tuple(sorted(found))
