"""How a training job's record reads in the documented shape."""

from typing import Any

from api.routes.training.schemas import Attempt, MemoryPlan, PastAttempt, TrainingDetail, TrainingEvent, TrainingSummary
from registry.stored_values import finite
from registry.tables import JobEvent, TrainingJob


def summary_of(job: TrainingJob) -> TrainingSummary:
    """Return the job as the list shows it."""
    return TrainingSummary(**_summary_fields(job))


def detail_of(
    job: TrainingJob,
    log_lines: list[str],
    attempts: list[dict[str, Any]],
    queue_position: int | None,
    memory_plan: dict[str, Any] | None,
) -> TrainingDetail:
    """Return the job with settings, progress and log."""
    return TrainingDetail(
        **_summary_fields(job),
        lora_r=job.recipe.get("lora_r"),
        lora_alpha=job.recipe.get("lora_alpha"),
        lora_dropout=job.recipe.get("lora_dropout"),
        # Older versions stored numbers that are none, which JSON has no word for.
        current_loss=finite(job.current_loss),
        logs="\n".join(log_lines),
        attempts=[PastAttempt(**attempt) for attempt in attempts],
        queue_position=queue_position,
        memory_plan=MemoryPlan(**memory_plan) if memory_plan is not None else None,
        eta_seconds=eta_seconds(job),
        pausing=job.pausing,
        cancelling=job.cancelling,
        error=job.error,
        stopped_early=_stopped_early(job),
        step=job.step,
        total_steps=job.total_steps,
        eval_loss=finite(job.eval_loss),
        tokens_per_second=finite(job.tokens_per_second),
        recipe=job.recipe,
        trained_tokens=job.trained_tokens,
        metadata=job.labels,
        attempt=_attempt_of(job),
        output_model_id=job.output_model_id,
        output_evaluation_id=job.output_evaluation_id,
        base_evaluation_id=job.base_evaluation_id,
        flow_run_id=job.flow_run_id,
        mlflow_run_id=job.mlflow_run_id,
    )


def _summary_fields(job: TrainingJob) -> dict[str, Any]:
    progress = 100.0 * job.step / job.total_steps if job.total_steps else 0.0
    return {
        "id": job.id,
        "model_id": job.model_id,
        "job_name": job.job_name,
        "status": job.status,
        "progress": round(progress, 1),
        "epochs": job.recipe["epochs"],
        "current_epoch": job.current_epoch,
        "learning_rate": job.recipe["learning_rate"],
        "batch_size": job.recipe["batch_size"],
        "created_at": job.created_at,
        "created_by": job.created_by,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
    }


def _stopped_early(job: TrainingJob) -> bool:
    """Tell whether the job is complete without all the planned steps, as its recipe allows."""
    allowed = job.recipe.get("early_stopping_patience") is not None  # a job of an older version has no such field
    return allowed and job.status == "COMPLETED" and job.total_steps is not None and job.step < job.total_steps


def eta_seconds(job: TrainingJob) -> float | None:
    """Return the seconds of training that are left at the present pace; None unless it runs."""
    if job.status != "RUNNING" or job.total_steps is None or job.seconds_per_step is None:
        return None
    return round((job.total_steps - job.step) * job.seconds_per_step, 1)


def event_of(event: JobEvent) -> TrainingEvent:
    """Return an event as clients see it: a log line carries its message among its data."""
    data = {"message": event.message} if event.kind == "log" else event.data
    return TrainingEvent(id=event.id, kind=event.kind, data=data, created_at=event.created_at)


def _attempt_of(job: TrainingJob) -> Attempt | None:
    if job.attempt_host is None or job.attempt_pid is None or job.attempt_started_at is None:
        return None
    return Attempt(
        number=job.attempt,
        host=job.attempt_host,
        pid=job.attempt_pid,
        started_at=job.attempt_started_at,
        ended_at=job.attempt_ended_at,
    )
