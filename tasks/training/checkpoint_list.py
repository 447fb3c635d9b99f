"""Lists a job's checkpoints with their scalars; reads no tensors and needs no torch."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 2
FIRST_FORMAT = 1
"""Read, and not written any more."""
_WEIGHTS = {FIRST_FORMAT: "adapter.safetensors", FORMAT: "weights.safetensors"}
"""The file with the weights that train; the first format called it `adapter` in a full-parameter run too."""
MANIFEST = "manifest.json"
STATE = "state.json"
_FOLDER = re.compile(r"step-(\d{8,})(\.replaced)?")


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A complete checkpoint on disk, and the scalars of its state."""

    folder: Path
    step: int
    saved_at: float
    """Seconds since 1970."""
    train_loss: float | None
    """Training loss of its last step, in nats per labelled token; None before the first one."""
    held_out_loss: float | None
    """Held-out loss of its weights; None if it was not measured after this step."""


def folder_name(step: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"step-{step:08d}"


def weights_file(manifest: Mapping[str, Any]) -> str:
    """Return the name of the file with the weights that train. Raises ValueError for a format that is not known."""
    if manifest["format"] not in _WEIGHTS:
        raise ValueError(f"format {manifest['format']}, not {' or '.join(map(str, _WEIGHTS))}")
    return _WEIGHTS[manifest["format"]]


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint's folder by its name, or -1."""
    match = _FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else -1


def folders(folder_root: Path) -> list[Path]:
    """Return the checkpoint folders, newest first; one being replaced comes after the one replacing it."""
    if not folder_root.is_dir():
        return []
    found = [folder for folder in folder_root.iterdir() if _FOLDER.fullmatch(folder.name)]
    return sorted(found, key=lambda folder: (-step_of(folder), folder.name))


def saved_checkpoints(folder_root: Path) -> Iterator[SavedCheckpoint]:
    """Yield the complete checkpoints, newest first; one that is removed meanwhile is left out."""
    for folder in folders(folder_root):
        if folder.suffix:
            continue
        try:
            saved_at = (folder / MANIFEST).stat().st_mtime
            progress = json.loads((folder / STATE).read_bytes())["progress"]
        except FileNotFoundError:
            continue
        step = step_of(folder)
        held_out_loss = progress["eval_loss"] if progress["eval_step"] == step else None
        yield SavedCheckpoint(folder, step, saved_at, progress["last_loss"], held_out_loss)
