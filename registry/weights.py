"""Where a base model's weights lie: the local models folder, the Hugging Face cache, or the hub, in that order."""

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from configs.settings import Settings
from registry.tables import Model

HUB_TIMEOUT_SECONDS = 3.0
# Weights as safetensors, and text beside them. Pickles (`.bin`, `.pt`) are never fetched: loading one runs its code.
HUB_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "LICENSE*",
    "README*",
)


class WeightsUnavailable(Exception):
    """The weights can't be had now; the message says what was looked at."""


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a base model's weights can be loaded now, and their size in parameters where they are on disk."""

    status: str
    reason: str | None = None
    model_size: str | None = None


def locate(base_model: str, models_dir: Path) -> Path | None:
    """Return the folder on this machine that holds the weights of `base_model`, or None."""
    for folder in (models_dir / base_model, _cached(base_model)):
        if folder is not None and (folder / "config.json").is_file() and next(_weight_files(folder), None):
            return folder
    return None


def weights_on_disk(model: Model, settings: Settings) -> Path | None:
    """Return the folder on this machine with the weights below a model's adapter: its own, else its base's; or None."""
    if model.weights is not None:
        return settings.weights_dir / model.weights
    return locate(model.base_model, settings.models_dir)


def probe(base_model: str, models_dir: Path, allow_hub: bool) -> Availability:
    """Return whether `base_model` can be loaded now; asks the hub, briefly, only if nothing is on disk."""
    folder = locate(base_model, models_dir)
    if folder is not None:
        return Availability("AVAILABLE", model_size=format_size(count_parameters(folder)))
    looked_at = f"{base_model} is neither in the models folder ({models_dir}) nor in the Hugging Face cache"
    if not allow_hub:
        return Availability("UNAVAILABLE", f"{looked_at}, and fetching from the hub is turned off.")
    from huggingface_hub import HfApi

    try:
        siblings = HfApi().model_info(base_model, timeout=HUB_TIMEOUT_SECONDS).siblings or []
    except Exception as error:  # noqa: BLE001 - whatever keeps the hub from answering becomes the status's reason
        return Availability("UNAVAILABLE", f"{looked_at}, and the hub did not provide it ({_first_line(error)}).")
    if not any(file.rfilename.endswith(".safetensors") for file in siblings):
        return Availability("UNAVAILABLE", f"{looked_at}, and on the hub it has no safetensors weights.")
    return Availability("AVAILABLE")


def obtain(base_model: str, models_dir: Path, allow_hub: bool) -> Path:
    """Return the folder with the weights of `base_model`, fetching them from the hub if they are not on disk.

    Raises `WeightsUnavailable` if they can't be had.
    """
    folder = locate(base_model, models_dir)
    if folder is not None:
        return folder
    availability = probe(base_model, models_dir, allow_hub)
    if availability.status != "AVAILABLE":
        raise WeightsUnavailable(availability.reason)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(base_model, allow_patterns=list(HUB_FILES)))
    except Exception as error:
        raise WeightsUnavailable(f"Fetching {base_model} from the hub failed: {_first_line(error)}") from error


def count_parameters(folder: Path) -> int:
    """Return the number of parameters in the safetensors files of `folder`, read from their headers alone."""
    return sum(
        prod(entry["shape"])
        for file in _weight_files(folder)
        for name, entry in _safetensors_header(file).items()
        # Old GPT-2 exports carry their causal masks as tensors.
        if name != "__metadata__" and not name.endswith((".attn.bias", ".attn.masked_bias"))
    )


def linear_layers(folder: Path) -> set[str]:
    """Return the full names of the linear layers in the blocks of a model, read from its files' headers alone.

    Matrices outside of the numbered blocks are the embeddings and the head, which get no adapter.
    """
    names = (
        name.removesuffix(".weight")
        for file in _weight_files(folder)
        for name, entry in _safetensors_header(file).items()
        if name != "__metadata__" and name.endswith(".weight") and len(entry["shape"]) == 2
    )
    return {name for name in names if re.search(r"(^|\.)\d+\.", name)}


def format_size(parameters: int) -> str:
    """Return `135M` or `1.5B` for a number of parameters."""
    if parameters >= 999_500_000:
        return f"{parameters / 1e9:.1f}B"
    if parameters >= 999_500:
        return f"{parameters / 1e6:.0f}M"
    return f"{max(parameters, 1000) / 1e3:.0f}K"


def _cached(base_model: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(base_model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _weight_files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.glob("*.safetensors")) if file.is_file())


def _safetensors_header(file: Path) -> dict[str, dict[str, list[int]]]:
    """Return name → {dtype, shape, data_offsets}; the format is 8 bytes of length, then JSON, then the tensors."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header: dict[str, dict[str, list[int]]] = json.loads(stream.read(length))
    return header


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
