"""Training jobs' files: checkpoints that are not needed any more, and folders of jobs that are gone."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy.orm import Session

from registry.attempts import attempt_is_alive
from registry.repositories.retention import RetentionRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.tables import Model, TrainingJob
from tasks.job.folder import JobFolder
from tasks.retention.files import abandoned, entries, freed_by, remove
from tasks.retention.files import found as found_file
from tasks.retention.rule import Context, Found
from tasks.training.checkpoint_list import folders, step_of


def completed(context: Context, before: datetime) -> Iterator[Found]:
    """Yield checkpoints of jobs that completed before a moment, but for the one that was registered."""
    yield from _checkpoints(context, before, ("COMPLETED",))


def stopped(context: Context, before: datetime) -> Iterator[Found]:
    """Yield checkpoints of jobs that failed or were cancelled before a moment."""
    yield from _checkpoints(context, before, ("FAILED", "CANCELLED"))


def of_no_job(context: Context, before: datetime) -> Iterator[Found]:
    """Yield job folders whose job has been deleted."""
    with context.database.reading() as session:
        known = RetentionRepository(session).job_ids()
    for folder in entries(context.settings.jobs_dir):
        # Ids are never used again, so a job that is gone stays gone.
        if folder.name.isdigit() and int(folder.name) not in known and abandoned(context, folder, before):
            yield found_file(folder)


def _checkpoints(context: Context, before: datetime, statuses: tuple[str, ...]) -> Iterator[Found]:
    with context.database.reading() as session:
        jobs = [job for job in RetentionRepository(session).jobs() if _ended(job, before, statuses)]
        registered = {job.id: _registered_step(session, job) for job in jobs}
    for job in jobs:
        checkpoints = JobFolder(context.settings.jobs_dir, job.id).checkpoints
        keep = registered[job.id]
        # A completed job whose registered step is not known keeps all it has.
        if keep is None and "COMPLETED" in statuses:
            continue
        spare = [folder for folder in folders(checkpoints) if folder.suffix or step_of(folder) != keep]
        spare += [one for one in entries(checkpoints) if one.name.startswith(".unfinished-")]
        for folder in spare:
            yield _checkpoint(context, job.id, folder, before, statuses)


def _checkpoint(context: Context, job_id: int, folder: Path, before: datetime, statuses: tuple[str, ...]) -> Found:
    def remove_if_ended() -> bool:
        files = JobFolder(context.settings.jobs_dir, job_id)
        try:
            # The first is the trainer's, the second that of an endpoint which makes an adapter of a checkpoint.
            with FileLock(files.path / "lock", timeout=0), FileLock(files.path / "export.lock", timeout=0):
                with context.database.reading() as session:
                    job = TrainingJobRepository(session).get(job_id)
                return (job is None or _ended(job, before, statuses)) and remove(folder)
        except (Timeout, FileNotFoundError):
            return False

    return Found(str(folder), freed_by(folder), remove_if_ended)


def _ended(job: TrainingJob, before: datetime, statuses: tuple[str, ...]) -> bool:
    ended = job.status in statuses and job.completed_at is not None and job.completed_at < before
    return ended and not attempt_is_alive(job)


def _registered_step(session: Session, job: TrainingJob) -> int | None:
    """Return the step whose weights a job's model has; a deleted model's too, since the job still names it."""
    model = session.get(Model, job.output_model_id) if job.output_model_id is not None else None
    parameters = (model.parameters or {}) if model is not None else {}
    # An earlier version said `adapter_step`, of full models too.
    return parameters.get("weights_step", parameters.get("adapter_step"))
