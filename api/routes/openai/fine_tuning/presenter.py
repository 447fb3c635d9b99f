"""How a training job and its events read in OpenAI's shape."""

import time
from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy.orm import Session

from api.openai_ids import EVENT, FILE, JOB, RESULTS
from api.routes.openai.fine_tuning.schemas import (
    DEFAULT_RATE,
    FineTuningJob,
    JobError,
    JobEvent,
    UsedHyperparameters,
    UsedMethod,
    UsedSupervised,
)
from api.routes.openai.names import name_of
from api.routes.training.presenter import eta_seconds
from configs.dataset import BUILT_IN_DATASET_ID
from registry.clock import unix_seconds
from registry.repositories.models import ModelRepository
from registry.run_states import TERMINAL
from registry.stored_values import NOT_FINITE
from registry.tables import JobEvent as StoredEvent
from registry.tables import Model, TrainingJob

STATUS = {
    "PENDING": "queued",
    "RUNNING": "running",
    "PAUSED": "paused",
    "COMPLETED": "succeeded",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
}
SENTENCES = {
    "step": "Step {step}: training loss {loss:.4f}",
    "evaluation": "Step {step}: held-out loss {eval_loss:.4f}",
    "checkpoint": "Checkpoint of step {step} saved",
}
Level = Literal["info", "warn", "error"]
LEVELS: dict[str | None, Level] = {"FAILED": "error", "CANCELLED": "warn", "failed": "error", "died": "error"}
METRIC_NAMES = {"loss": "train_loss", "eval_loss": "valid_loss"}
"""OpenAI's names of metrics that events carry under other ones."""


def job_objects(session: Session, jobs: Sequence[TrainingJob]) -> list[FineTuningJob]:
    """Return the jobs; the models that they name are read at once."""
    ids = {job.model_id for job in jobs} | {job.output_model_id for job in jobs if job.output_model_id is not None}
    models = ModelRepository(session).by_ids(ids)
    return [_job_object(job, models) for job in jobs]


def _job_object(job: TrainingJob, models: dict[int, Model]) -> FineTuningJob:
    recipe, ended = job.recipe, job.status in TERMINAL
    used = UsedHyperparameters(
        n_epochs=recipe["epochs"],
        batch_size=recipe["batch_size"],
        # Nine digits: a multiplier of 1.8 comes back as 1.8.
        learning_rate_multiplier=float(f"{recipe['learning_rate'] / DEFAULT_RATE:.9g}"),
    )
    # A job of an older version has no such field.
    held_out_dataset_id = recipe.get("held_out_dataset_id")
    made = models.get(job.output_model_id) if job.output_model_id and job.status == "COMPLETED" else None
    eta = eta_seconds(job)
    return FineTuningJob(
        id=f"{JOB}{job.id}",
        created_at=unix_seconds(job.created_at),
        finished_at=unix_seconds(job.completed_at) if ended and job.completed_at else None,
        estimated_finish=None if eta is None else int(time.time() + eta),
        status=_status(job),
        model=name_of(models[job.model_id]),
        fine_tuned_model=name_of(made) if made is not None else None,
        training_file=f"{FILE}{recipe['dataset_id'] or BUILT_IN_DATASET_ID}",
        validation_file=f"{FILE}{held_out_dataset_id}" if held_out_dataset_id else None,
        result_files=[f"{RESULTS}{job.id}"] if ended else [],
        trained_tokens=job.trained_tokens if ended else None,
        hyperparameters=used,
        method=UsedMethod(supervised=UsedSupervised(hyperparameters=used)),
        seed=recipe["seed"],
        metadata=job.labels,
        error=JobError(code="training_failed", message=job.error or "") if job.status == "FAILED" else None,
    )


def _status(job: TrainingJob) -> Any:
    # Until the trainer knows how many steps there are, it reads and tokenizes the rows.
    if job.status == "RUNNING" and job.total_steps is None:
        return "validating_files"
    return STATUS[job.status]


def event_object(event: StoredEvent) -> JobEvent:
    """Return an event as OpenAI's clients see it: numbers are `metrics`, all else is a `message`."""
    data = {METRIC_NAMES.get(name, name): value for name, value in event.data.items()}
    level, message = _said(event)
    return JobEvent(
        id=f"{EVENT}{event.id}",
        created_at=unix_seconds(event.created_at),
        level=level,
        type="metrics" if event.kind in ("step", "evaluation") else "message",
        message=message,
        data=data,
    )


def _said(event: StoredEvent) -> tuple[Level, str]:
    """Return level and sentence."""
    data = event.data
    if event.kind in SENTENCES:
        # What was not a finite number is null among the data; its sentence says what it was.
        spoken = data | {name: float(odd) for name, odd in data.get(NOT_FINITE, {}).items()}
        return "info", SENTENCES[event.kind].format(**spoken)
    if event.kind == "state":
        reason = f": {data['error']}" if data["error"] else ""
        return LEVELS.get(data["status"], "info"), f"The job is {STATUS[data['status']]}{reason}"
    if event.kind == "attempt":
        ended = data.get("outcome")
        sentence = f"ended: {ended}" if ended else "began"
        return LEVELS.get(ended, "info"), f"Attempt {data['number']} {sentence}"
    return "info", event.message
