"""What the training doors do: create, show, pause and resume jobs."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from sqlalchemy.orm import Session

from api.errors import Conflict, NotFound, PartDown
from api.idempotency import Answer, IdempotentRequest, create_once
from api.orchestrator import FlowRun
from api.platform import Platform
from api.routes.models.service import model_in, require_loadable
from api.routes.training.schemas import TrainingCreate, TrainingCreated, TrainingTransition
from registry.database import Database
from registry.repositories.datasets import DatasetRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.run_states import TERMINAL
from registry.submissions import job_of_parameters
from registry.tables import TrainingJob

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
CREATED = "Training job created and started successfully"
ACCEPTED = "Training job created; it starts as soon as the Prefect server answers"


def list_jobs(database: Database, limit: int | None, after: int | None) -> Sequence[TrainingJob]:
    """Return training jobs in id order."""
    with database.reading() as session:
        return TrainingJobRepository(session).list(limit, after)


def read_job(database: Database, job_id: int) -> TrainingJob:
    """Return the job, or raise `NotFound`."""
    with database.reading() as session:
        job = TrainingJobRepository(session).get(job_id)
    if job is None:
        raise NotFound(f"There is no training job with the id {job_id}; GET /api/training lists those there are.")
    return job


def read_log(database: Database, job_id: int) -> str:
    """Return the job's log as lines."""
    with database.reading() as session:
        return "\n".join(message for _, message in TrainingJobRepository(session).log_lines(job_id))


async def create_job(platform: Platform, body: TrainingCreate, once: IdempotentRequest | None) -> Answer:
    """Accept a job: once it is in our table it will run, now or when Prefect answers again."""
    message = CREATED if platform.monitor.answers("prefect") else ACCEPTED
    created = await asyncio.to_thread(
        create_once, platform.database, once, lambda session: _insert_job(session, body, message)
    )
    try:
        await platform.reconciler.submit_waiting()
    except PartDown as error:
        logger.warning("training job %d waits to be submitted: %s", created.resource_id, error)
    return created.answer


def _insert_job(session: Session, body: TrainingCreate, message: str) -> tuple[int, Answer]:
    require_loadable(model_in(session, body.model_id))
    require_dataset(session, body.dataset_id)
    job = TrainingJobRepository(session).add(job_of_parameters(body))
    answer = TrainingCreated(id=job.id, job_name=job.job_name, model_id=job.model_id, status="PENDING", message=message)
    return job.id, answer.model_dump()


def require_dataset(session: Session, dataset_id: int | None) -> None:
    """Raise `NotFound` if a named data set does not exist."""
    if dataset_id is not None and DatasetRepository(session).get(dataset_id) is None:
        raise NotFound(f"There is no data set with the id {dataset_id}; leave dataset_id out for the built-in one.")


async def pause_job(platform: Platform, job_id: int) -> TrainingTransition:
    """Ask the trainer to leave, and wait for it: `PAUSED`, or `RUNNING` and `pausing` when it takes longer."""
    job = await asyncio.to_thread(read_job, platform.database, job_id)
    if job.status not in ("PENDING", "RUNNING"):
        raise Conflict(f"Training job {job_id} is {job.status}; only a PENDING or RUNNING job can be paused.")
    run = await _flow_run_of(platform, job)
    if run.state_type != "PAUSED" and not await platform.orchestrator.suspend(run):
        raise Conflict(f"Training job {job_id} can't be paused: its run is {run.state_name} in Prefect.")
    job = await _wait(platform, job_id, lambda job: job.status not in ("RUNNING", "PENDING"))
    if job.status == "PAUSED":
        return TrainingTransition(id=job.id, status="PAUSED", message="Training job paused successfully")
    if job.status in ("RUNNING", "PENDING"):
        message = "Training job is pausing; it is PAUSED as soon as the trainer has left the device"
        return TrainingTransition(id=job.id, status="RUNNING", message=message, pausing=True)
    raise Conflict(f"Training job {job_id} was not paused: it is {job.status}.")


async def resume_job(platform: Platform, job_id: int) -> TrainingTransition:
    """Let a paused job go on; wait until it runs, or is queued behind another."""
    job = await asyncio.to_thread(read_job, platform.database, job_id)
    if job.status != "PAUSED" and not job.pausing:
        raise Conflict(f"Training job {job_id} is {job.status}; only a PAUSED job can be resumed.")
    assert job.flow_run_id is not None
    if not await platform.orchestrator.resume(job.flow_run_id):
        raise Conflict(f"Training job {job_id} can't be resumed: Prefect says that its run is not paused.")
    attempt = job.attempt
    job = await _wait(platform, job_id, lambda job: _goes_on_or_queues(platform.database, job, attempt))
    if job.status in ("PENDING", "PAUSED"):
        message = "Training job resumed; it waits for its turn"
        return TrainingTransition(id=job.id, status="PENDING", message=message)
    return TrainingTransition(id=job.id, status="RUNNING", message="Training job resumed successfully")


def _goes_on_or_queues(database: Database, job: TrainingJob, attempt: int) -> bool:
    """Return whether a resumed job runs again, or waits because another job has the device."""
    if job.status == "PENDING":
        with database.reading() as session:
            return TrainingJobRepository(session).another_runs(job.id)
    return job.status != "PAUSED" and (job.attempt > attempt or job.status in TERMINAL)


async def _flow_run_of(platform: Platform, job: TrainingJob) -> FlowRun:
    if job.flow_run_id is None:
        await platform.reconciler.submit_waiting()
        job = await asyncio.to_thread(read_job, platform.database, job.id)
    assert job.flow_run_id is not None
    run = await platform.orchestrator.flow_run(job.flow_run_id)
    if run is None:
        raise Conflict(f"The flow run of training job {job.id} was deleted in Prefect.")
    return run


async def _wait(platform: Platform, job_id: int, done: Callable[[TrainingJob], bool]) -> TrainingJob:
    """Return the job once `done` holds of it, or as it is when the waiting time is over."""
    deadline = time.monotonic() + platform.settings.pause_wait_seconds
    while True:
        platform.reconciler.wake()
        job = await asyncio.to_thread(read_job, platform.database, job_id)
        if done(job) or time.monotonic() > deadline:
            return job
        await asyncio.sleep(POLL_SECONDS)
