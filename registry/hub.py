"""Downloads from the hub: sizes are asked for first and compared with the free disk, and one that stalls is ended."""

import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from registry.fetching import STALL_SECONDS, FetchError, fetched_by, first_line

Kind = Literal["model", "dataset"]
HUB_TIMEOUT_SECONDS = 3.0
MIN_FREE_BYTES = 2_000_000_000
# Weights as safetensors, and text beside them. Pickles (`.bin`, `.pt`) are never fetched: loading one runs its code.
MODEL_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "LICENSE*",
    "README*",
)


class HubError(Exception):
    """The hub does not have it, does not answer, or there is no room for it; the message says which."""


def sizes(kind: Kind, name: str, patterns: tuple[str, ...] = ("*",)) -> dict[str, int]:
    """Return the hub's files that match, with their bytes; raises `HubError` if it does not say."""
    from huggingface_hub import HfApi

    api = HfApi()
    ask = api.model_info if kind == "model" else api.dataset_info
    try:
        siblings = ask(name, timeout=HUB_TIMEOUT_SECONDS, files_metadata=True).siblings or []
    except Exception as error:
        raise HubError(f"the hub did not provide it ({first_line(error)})") from error
    return {
        file.rfilename: file.size or 0
        for file in siblings
        if any(fnmatch(file.rfilename, pattern) for pattern in patterns)
    }


def require_room(what: str, needed: int, folder: Path, min_free_bytes: int) -> None:
    """Raise `HubError` with both numbers if `needed` bytes in `folder` would leave less than `min_free_bytes` free."""
    free = shutil.disk_usage(_existing(folder)).free
    if needed > free - min_free_bytes:
        raise HubError(
            f"{what} takes {_gigabytes(needed)} GB of disk, and of the {_gigabytes(free)} GB that are free in "
            f"{_existing(folder)} {_gigabytes(min_free_bytes)} GB are kept (LLM_PLATFORM_MIN_FREE_DISK_GB)"
        )


def download_model(name: str, cache: Path, min_free_bytes: int, stall_seconds: float = STALL_SECONDS) -> Path:
    """Return the folder in the Hugging Face cache that the model's files have been fetched to; raises `HubError`."""
    require_room(f"fetching {name}", sum(sizes("model", name, MODEL_FILES).values()), cache, min_free_bytes)
    try:
        return fetched_by(
            "registry.hub_download",
            name,
            stall_seconds,
            lambda: require_room(f"what is left of {name}", 0, cache, min_free_bytes),
        )
    except FetchError as error:
        raise HubError(str(error)) from error


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f}"


def cache_folder() -> Path:
    """Return the Hugging Face cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(os.path.expanduser(HF_HUB_CACHE))  # noqa: PTH111 - a text that may be relative
