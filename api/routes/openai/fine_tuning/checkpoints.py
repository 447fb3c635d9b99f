"""A job's checkpoints: those that are kept, and the models that they are."""

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from filelock import FileLock

from api.errors import Conflict, NotFound
from api.openai_ids import CHECKPOINT, JOB, NUMBER, cursor
from api.platform import Platform
from api.routes.openai.fine_tuning.schemas import Checkpoint, CheckpointMetrics
from api.routes.openai.names import fine_tuned_name, named, no_model
from api.routes.openai.pages import Page, page_of
from api.routes.training.service import job_in
from configs.recipe import TrainingRecipe
from registry.repositories.models import ModelRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.tables import Model, TrainingJob
from tasks.job.folder import JobFolder, served_prefix
from tasks.training.checkpoint_list import SavedCheckpoint, folder_name, saved_checkpoints
from tasks.training.export import export_adapter

_NAME = re.compile(rf"ft:.+:{JOB}({NUMBER}):ckpt-step-([0-9]{{1,9}})")
WHICH_ARE_KEPT = "the newest two and the one with the lowest held-out loss"

EXPORT_WAIT_SECONDS = 60.0
NO_ADAPTER = "the job trains whole weights (method dora or full), or is of an older version"


def list_checkpoints(platform: Platform, job_id: int, limit: int, after: str | None) -> Page[Checkpoint]:
    """Return a page of the checkpoints that are kept, newest first; raises `NotFound` for an unknown job."""
    with platform.database.reading() as session:
        job = job_in(session, job_id)
        base_model = ModelRepository(session).by_ids([job.model_id])[job.model_id].base_model
    files = JobFolder(platform.settings.jobs_dir, job_id)
    kept = saved_checkpoints(files.checkpoints) if files.untrained_adapter.is_dir() else ()
    shown = (_checkpoint(job, base_model, one) for one in kept)
    last = cursor(after)
    if last is not None:
        # By the step, as the one that was last on the page before may have expired meanwhile.
        shown = (one for one in shown if one.step_number < last)
    return page_of(list(islice(shown, limit + 1)), limit)


@dataclass(frozen=True, slots=True)
class NamedCheckpoint:
    """What a checkpoint's name means: its job, the model that was trained from, and where it lies."""

    job: TrainingJob
    model: Model
    kept: SavedCheckpoint


def checkpoint_of(platform: Platform, name: str) -> NamedCheckpoint | None:
    """Return the checkpoint of a model's name, or None if it is no checkpoint's; raises `NotFound` if it is gone."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    step = int(match[2])
    with platform.database.reading() as session:
        job = TrainingJobRepository(session).get(int(match[1]))
        model = ModelRepository(session).by_ids([job.model_id])[job.model_id] if job is not None else None
    if job is None or model is None or name != _name(job, model.base_model, step):
        raise no_model(name)
    kept = list(saved_checkpoints(JobFolder(platform.settings.jobs_dir, job.id).checkpoints))
    found = next((one for one in kept if one.step == step), None)
    if found is None:
        raise _expired(job, step, kept)
    return NamedCheckpoint(job, model, found)


def answering(platform: Platform, name: str) -> tuple[Model, Path | None]:
    """Return the model of a name, and for a checkpoint's name the folder of its adapter, made at its first use.

    Raises `NotFound`, and `Conflict` for a checkpoint that is damaged.
    """
    checkpoint = checkpoint_of(platform, name)
    if checkpoint is None:
        with platform.database.reading() as session:
            return named(session, name), None
    return checkpoint.model, _adapter(platform, checkpoint)


def _adapter(platform: Platform, checkpoint: NamedCheckpoint) -> Path:
    job, kept = checkpoint.job, checkpoint.kept
    files, adapters = JobFolder(platform.settings.jobs_dir, job.id), platform.settings.adapters_dir
    if not files.untrained_adapter.is_dir():
        raise NotFound(f"The checkpoints of {JOB}{job.id} can't be named as models: {NO_ADAPTER}.")
    prefix, scale = served_prefix(job.uid), TrainingRecipe(**job.recipe).lora_scale
    with FileLock(files.path / "export.lock", timeout=EXPORT_WAIT_SECONDS):
        steps = [one.step for one in saved_checkpoints(files.checkpoints)]
        _forget_expired(adapters, prefix, steps)
        try:
            return export_adapter(kept.folder, files.untrained_adapter, adapters, prefix, scale)
        except FileNotFoundError as error:
            raise _expired(job, kept.step, saved_checkpoints(files.checkpoints)) from error
        except ValueError as error:
            raise Conflict(f"The checkpoint of step {kept.step} of {JOB}{job.id} is damaged: {error}.") from error


def _expired(job: TrainingJob, step: int, kept: Iterable[SavedCheckpoint]) -> NotFound:
    steps = [str(one.step) for one in kept]
    there = f"there are those of steps {', '.join(steps)}" if steps else "there is none"
    return NotFound(
        f"{JOB}{job.id} has no checkpoint of step {step}, or it has expired: {WHICH_ARE_KEPT} stay; {there}."
    )


def _forget_expired(adapters: Path, prefix: str, kept: list[int]) -> None:
    """Remove the adapter folders of checkpoints that are gone."""
    valid = tuple(f"{prefix}{folder_name(step)}-" for step in kept)
    for folder in adapters.glob(f"{prefix}step-*"):
        if not folder.name.startswith(valid):
            shutil.rmtree(folder, ignore_errors=True)


def _checkpoint(job: TrainingJob, base_model: str, kept: SavedCheckpoint) -> Checkpoint:
    return Checkpoint(
        id=f"{CHECKPOINT}{job.id}-{kept.step}",
        created_at=int(kept.saved_at),
        fine_tuning_job_id=f"{JOB}{job.id}",
        fine_tuned_model_checkpoint=_name(job, base_model, kept.step),
        step_number=kept.step,
        metrics=CheckpointMetrics(step=kept.step, train_loss=kept.train_loss, valid_loss=kept.held_out_loss),
    )


def _name(job: TrainingJob, base_model: str, step: int) -> str:
    return fine_tuned_name(base_model, job.job_name, f"{JOB}{job.id}:ckpt-step-{step}")
