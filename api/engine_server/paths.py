"""Which folders a request may name: local and trained models, adapters, the Hugging Face cache, nothing else."""

import os
from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE

from configs.settings import Settings


class PathRefused(ValueError):
    """A path lies outside the folders that hold models."""


def allowed_folders(settings: Settings) -> list[Path]:
    """Return the folders whose content may be loaded."""
    return [settings.models_dir, settings.adapters_dir, settings.weights_dir, Path(HF_HUB_CACHE).expanduser()]


def model_folder(name: str, folders: list[Path]) -> Path:
    """Return `name` as a normalised absolute path.

    Raises:
        PathRefused: it is not absolute, or not strictly inside one of `folders`, with and without symbolic links
            followed. (A link inside such a folder is the operator's own doing, so either is enough.)
    """
    path = Path(os.path.normpath(name))
    if path.is_absolute() and "\0" not in name:
        for folder in folders:
            if folder in path.parents or folder.resolve() in path.resolve().parents:
                return path
    raise PathRefused(
        f"{name!r} is not a folder of the models folder, of what was trained, or of the Hugging Face cache"
    )
