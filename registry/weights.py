"""Where a base model's weights lie: the local models folder, the Hugging Face cache, or the hub, in that order.

What is on the hub, or in the models folder as a GGUF file, is fetched or converted when it is first needed.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from configs.settings import Settings
from registry import hub
from registry.fetching import STALL_SECONDS, FetchError, fetched_by
from registry.gguf_file import read_header
from registry.model_folder import (
    convertible_gguf,
    count_parameters,
    defect,
    holds_anything,
    lasting_defect,
    weight_files,
    weight_shapes,
)
from registry.tables import Model

_OF_EXPERTS = re.compile(r"\.(experts\.|router(\.layer)?$|gate$)")
"""In the names of the families that have experts."""
_STORED_TURNED = ("gpt2",)
"""Families whose linear layers are stored with a row for each input."""
_SEES = re.compile(r"(^|\.)(vision_tower|multi_modal_projector)\.")
"""In the names of the families that see images too (`registry.model_families.WITH_VISION`)."""


GGUF_CONVERSION = "tasks.models.gguf_conversion"
"""Run as a program: it needs tensors, of which nothing here knows."""
CONVERSION_STALL_SECONDS = 1800.0
"""Between two files of weights: unpacking 2 GB takes minutes on a laptop."""


class WeightsUnavailable(Exception):
    """The weights can't be had now; the message says what was looked at."""


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a base model's weights can be loaded now, and their size in parameters where they are on disk."""

    status: str
    reason: str | None = None
    model_size: str | None = None


def locate(base_model: str, models_dir: Path) -> Path | None:
    """Return the folder on this machine that holds weights of `base_model` that can be loaded, or None."""
    for folder in _folders(base_model, models_dir):
        if defect(folder) is None:
            return folder
    return None


def weights_on_disk(model: Model, settings: Settings) -> Path | None:
    """Return the folder on this machine with the weights below a model's adapter: its own, else its base's; or None."""
    if model.weights is not None:
        return settings.weights_dir / model.weights
    return locate(model.base_model, settings.models_dir)


def probe(base_model: str, models_dir: Path, allow_hub: bool, min_free_bytes: int = hub.MIN_FREE_BYTES) -> Availability:
    """Return whether `base_model` can be loaded now; asks the hub, briefly, only if nothing is on disk.

    What lies in the models folder and can't be loaded is not replaced from the hub: somebody has put it there.
    """
    folder = locate(base_model, models_dir)
    if folder is not None:
        return Availability("AVAILABLE", model_size=format_size(count_parameters(folder)))
    if (file := convertible_gguf(models_dir / base_model)) is not None:
        return _probe_gguf(file, min_free_bytes)
    if holds_anything(models_dir / base_model):
        return Availability("UNAVAILABLE", f"{_capital(defect(models_dir / base_model))}.")
    looked_at = f"{base_model} is neither in the models folder ({models_dir}) nor in the Hugging Face cache"
    if (cached := _cached(base_model)) is not None:
        looked_at = f"{base_model} is not in the models folder ({models_dir}), and in the cache {defect(cached)}"
    if cached is not None and lasting_defect(cached) is not None:
        return Availability("UNAVAILABLE", f"{looked_at}.")
    if not allow_hub:
        return Availability("UNAVAILABLE", f"{looked_at}, and fetching from the hub is turned off.")
    return _probe_hub(base_model, looked_at, min_free_bytes)


def _probe_hub(base_model: str, looked_at: str, min_free_bytes: int) -> Availability:
    try:
        sizes = hub.sizes("model", base_model, hub.MODEL_FILES)
        if not any(name.endswith(".safetensors") for name in sizes):
            return Availability("UNAVAILABLE", f"{looked_at}, and on the hub it has no safetensors weights.")
        hub.require_room(f"fetching {base_model}", sum(sizes.values()), hub.cache_folder(), min_free_bytes)
    except hub.HubError as error:
        return Availability("UNAVAILABLE", f"{looked_at}, and {error}.")
    return Availability("AVAILABLE")


def _probe_gguf(file: Path, min_free_bytes: int) -> Availability:
    header = read_header(file)
    try:
        hub.require_room(f"converting {file}", header.bytes_unpacked, file.parent, min_free_bytes)
    except hub.HubError as error:
        return Availability("UNAVAILABLE", f"{_capital(str(error))}.")
    return Availability("AVAILABLE", model_size=format_size(header.parameters))


def obtain(
    base_model: str,
    models_dir: Path,
    allow_hub: bool,
    min_free_bytes: int = hub.MIN_FREE_BYTES,
    stall_seconds: float = STALL_SECONDS,
) -> Path:
    """Return the folder with the weights of `base_model`: where they are not on disk, fetched or converted first.

    A download of which nothing comes for `stall_seconds` is ended. Raises `WeightsUnavailable` if they can't be had.
    """
    folder = locate(base_model, models_dir)
    if folder is not None:
        return folder
    availability = probe(base_model, models_dir, allow_hub, min_free_bytes)
    if availability.status != "AVAILABLE":
        raise WeightsUnavailable(availability.reason)
    if convertible_gguf(models_dir / base_model) is not None:
        return _convert(models_dir / base_model, min_free_bytes)
    try:
        fetched = hub.download_model(base_model, hub.cache_folder(), min_free_bytes, stall_seconds)
    except hub.HubError as error:
        raise WeightsUnavailable(f"Fetching {base_model} from the hub failed: {error}.") from error
    if (reason := defect(fetched)) is not None:
        raise WeightsUnavailable(f"{base_model} was fetched from the hub, and {reason}.")
    return fetched


def way_to_obtain(base_model: str, models_dir: Path) -> str:
    """Return how weights that are not on disk yet are had, as the end of a sentence about them."""
    of_a_file = convertible_gguf(models_dir / base_model) is not None
    return "being converted from their GGUF file" if of_a_file else "being fetched from the hub"


def _convert(folder: Path, min_free_bytes: int) -> Path:
    """Return the folder once the GGUF file in it has been converted; one process does it, others wait."""
    with FileLock(folder / ".conversion.lock"):
        if defect(folder) is None:
            return folder
        try:
            fetched_by(
                GGUF_CONVERSION,
                str(folder),
                CONVERSION_STALL_SECONDS,
                lambda: hub.require_room("what is left of the conversion", 0, folder, min_free_bytes),
            )
        except (FetchError, hub.HubError) as error:
            raise WeightsUnavailable(f"Converting the GGUF file in {folder} failed: {error}.") from error
    if (reason := defect(folder)) is not None:
        raise WeightsUnavailable(f"The GGUF file in {folder} was converted, and {reason}.")
    return folder


def linear_layers(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inputs and outputs of the linear layers in the blocks of a model by their full names, read from headers.

    Matrices outside of the numbered blocks are the embeddings and the head, which get no adapter. Nor do experts and
    their routers: in memory all experts of a block are one tensor, and no linear layers. Nor does a vision tower.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    turned = config.get("model_type") in _STORED_TURNED
    return {
        # As it is named in memory.
        re.sub(r"^language_model\.model\.", "model.language_model.", name): (rows, columns)
        if turned
        else (columns, rows)
        for name, (rows, columns) in _matrices(folder)
        if re.search(r"(^|\.)\d+\.", name) and not _OF_EXPERTS.search(name) and not _SEES.search(name)
    }


def has_experts(folder: Path) -> bool:
    """Return whether the model is a mixture of experts, read from its files' headers alone."""
    return any(_OF_EXPERTS.search(name) for name, _ in _matrices(folder))


def has_vision(folder: Path) -> bool:
    """Return whether the model has a vision tower beside its decoder, read from its files' headers alone."""
    return any(_SEES.search(name) for name, _ in _matrices(folder))


def names_layer(layer: str, target: str) -> bool:
    """Return whether a target is a layer's name or a dotted end of it, or the other way round.

    In memory a layer's name may have a prefix that its file leaves out.
    """
    layers, targets = layer.split("."), target.split(".")
    shared = min(len(layers), len(targets))
    return layers[-shared:] == targets[-shared:]


def _matrices(folder: Path) -> Iterator[tuple[str, list[int]]]:
    for file in weight_files(folder):
        for name, shape in weight_shapes(file):
            if name.endswith(".weight") and len(shape) == 2:
                yield name.removesuffix(".weight"), shape


def format_size(parameters: int) -> str:
    """Return `135M` or `1.5B` for a number of parameters."""
    if parameters >= 999_500_000:
        return f"{parameters / 1e9:.1f}B"
    if parameters >= 999_500:
        return f"{parameters / 1e6:.0f}M"
    return f"{max(parameters, 1000) / 1e3:.0f}K"


def _folders(base_model: str, models_dir: Path) -> list[Path]:
    """Return the folders on this machine that may hold the base's weights, the first to be preferred."""
    cached = _cached(base_model)
    folders = [models_dir / base_model] + ([cached] if cached is not None else [])
    return [folder for folder in folders if folder.is_dir()]


def _cached(base_model: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(base_model, local_files_only=True, allow_patterns=list(hub.MODEL_FILES)))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _capital(sentence: str | None) -> str:
    return f"{sentence[0].upper()}{sentence[1:]}" if sentence else ""
