"""Atomic checkpoints: written to a temporary folder, synced, hashed in a manifest, and renamed into place."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tasks.atomic_files import publish_folder, sync_folder
from tasks.training.checkpoint_list import (
    FIRST_FORMAT,
    FORMAT,
    MANIFEST,
    STATE,
    folder_name,
    folders,
    step_of,
    weights_file,
)
from tasks.training.errors import BestCheckpointLost, CheckpointMismatch
from tasks.training.planning import StepPlan
from tasks.training.sampler import Cursor
from tasks.training.tensor_file import read_tensors, write_tensors

_PARTS = ("weights", "optimizer", "rng")
_RENAMED = {"base_dtype": "compute_dtype", "path": "backend"}
"""Fields of the identity that had other names in the first format."""
_UNFINISHED = ".unfinished-"
_KEPT = 2
_UNREADABLE = (OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Progress:
    """The scalars of a run between two steps."""

    cursor: Cursor = field(default_factory=Cursor)
    tokens_seen: int = 0
    """Tokens read so far, padding not counted."""
    last_loss: float | None = None
    """Training loss of the last step, in nats per labelled token."""
    eval_step: int | None = None
    eval_loss: float | None = None
    """Newest held-out loss and the step it was measured after."""
    best_step: int | None = None
    best_loss: float | None = None
    """Lowest held-out loss so far and the step it was measured after."""
    plan: StepPlan | None = None
    """How the steps are cut to fit in memory; None in a checkpoint of an earlier version."""

    def evaluated(self, step: int, eval_loss: float) -> "Progress":
        """Return the progress with a held-out loss measured after `step`."""
        evaluated = replace(self, eval_step=step, eval_loss=eval_loss)
        # A NaN loss is never the best: no later loss would compare as lower.
        if math.isfinite(eval_loss) and (self.best_loss is None or eval_loss < self.best_loss):
            return replace(evaluated, best_step=step, best_loss=eval_loss)
        return evaluated


@dataclass(frozen=True)
class TrainingState:
    """Everything the next step depends on but the base model and the rows. Tensors are on the CPU."""

    progress: Progress
    identity: dict[str, Any]
    """What the run is: recipe, data fingerprint, device. JSON values; a checkpoint fits no other run."""
    weights: dict[str, Tensor]
    """Those that train: the adapter's, or all there are."""
    optimizer: dict[str, Tensor]
    rng: dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint, read and verified."""

    path: Path
    state: TrainingState

    def require_match(self, identity: dict[str, Any], defaults: Mapping[str, Any]) -> None:
        """Raise CheckpointMismatch, naming what differs, unless the checkpoint was saved by a run like `identity`.

        `defaults` stand in for fields that the checkpoint lacks: the version that wrote it trained as the default does.
        """
        saved = {**defaults, **self.state.identity}
        differing = [key for key in sorted(saved.keys() | identity.keys()) if saved.get(key) != identity.get(key)]
        if differing:
            changes = "; ".join(f"{key} was {saved.get(key)!r}, is {identity.get(key)!r}" for key in differing)
            raise CheckpointMismatch(f"{self.path} belongs to another run: {changes}")


def save_checkpoint(folder_root: Path, state: TrainingState, before_publishing: Callable[[], None]) -> Path:
    """Write `state` as `folder_root/step-NNNNNNNN` and return that folder; it appears complete or not at all.

    Keeps the newest two checkpoints and the one of the lowest held-out loss, and removes what an interrupted save
    left. One process at a time may save in `folder_root`: `before_publishing` is called when everything is on disk,
    and raises if this process is not that one any more.
    """
    folder_root.mkdir(parents=True, exist_ok=True)
    for leftover in folder_root.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(leftover)
    name = folder_name(state.progress.cursor.step)
    unfinished, target = folder_root / f"{_UNFINISHED}{name}", folder_root / name
    unfinished.mkdir()
    scalars = _to_json({"progress": asdict(state.progress), "identity": state.identity})
    hashes = {STATE: _write_hashed(unfinished / STATE, scalars)}
    manifest = {"format": FORMAT, "sha256": hashes}
    for part, file in _files(manifest).items():
        hashes[file] = write_tensors(unfinished / file, getattr(state, part))
    # The manifest comes last: a folder without one was never finished.
    (unfinished / MANIFEST).write_bytes(_to_json(manifest))
    sync_folder(unfinished)
    before_publishing()
    publish_folder(unfinished, target)  # an old one of this name counts, as `.replaced`, until the new one is in place
    _prune(folder_root, state.progress.best_step)
    return target


def latest_checkpoint(folder_root: Path, log: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest complete checkpoint under `folder_root`, or None.

    One that is torn or was tampered with (a missing file, another hash, unreadable JSON) is passed over with a line
    to `log`, for the one before it. Only reads, and every file once: what is hashed is what is returned.
    """
    for folder in folders(folder_root):
        try:
            return Checkpoint(folder, _read(folder))
        except _UNREADABLE as error:
            log(f"checkpoint {folder} is not complete and is skipped: {type(error).__name__}: {error}")
    return None


def best_checkpoint(folder_root: Path, step: int) -> Checkpoint:
    """Return the checkpoint of `step`, the best one, with its weights alone: the rest is not read.

    Raises BestCheckpointLost if they are not as they were saved: it does not fall back to an older one.
    """
    folder = folder_root / folder_name(step)
    try:
        return Checkpoint(folder, _read(folder, parts=("weights",)))
    except _UNREADABLE as error:
        raise BestCheckpointLost(
            f"the checkpoint with the lowest held-out loss, {folder}, is damaged ({type(error).__name__}: {error}): "
            "put it back from a backup, or start a new job"
        ) from error


def discard_newer(folder_root: Path, step: int) -> None:
    """Remove the checkpoints after `step`: broken ones, which would otherwise count among those to keep."""
    for folder in folders(folder_root):
        if step_of(folder) > step:
            shutil.rmtree(folder)


def _prune(folder_root: Path, best_step: int | None) -> None:
    current = [folder for folder in folders(folder_root) if not folder.suffix]
    kept = current[:_KEPT] + [folder for folder in current if step_of(folder) == best_step]
    for folder in folders(folder_root):
        if folder not in kept:
            shutil.rmtree(folder)


def _read(folder: Path, parts: Collection[str] = _PARTS) -> TrainingState:
    """Return a folder's state, with no tensors but those of `parts`.

    Raises one of several errors when what it reads is not exactly what was written.
    """
    manifest = json.loads((folder / MANIFEST).read_bytes())
    files, hashes = _files(manifest), manifest["sha256"]
    content = (folder / STATE).read_bytes()
    if hashlib.sha256(content).hexdigest() != hashes[STATE]:
        raise ValueError(f"{STATE} is not what was written")
    scalars = json.loads(content)
    saved = scalars["progress"]
    plan = StepPlan(**saved["plan"]) if saved.get("plan") else None  # an earlier version did not write it
    progress = Progress(**saved | {"cursor": Cursor(**saved["cursor"]), "plan": plan})
    identity = scalars["identity"]
    if manifest["format"] == FIRST_FORMAT:
        identity = {_RENAMED.get(name, name): value for name, value in identity.items()}
    tensors = {part: read_tensors(folder / file, hashes[file]) if part in parts else {} for part, file in files.items()}
    return TrainingState(progress, identity, **tensors)


def _files(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of a checkpoint's files of tensors, by their part of the state."""
    return {"weights": weights_file(manifest), "optimizer": "optimizer.safetensors", "rng": "rng.safetensors"}


def _to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _write_hashed(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()
