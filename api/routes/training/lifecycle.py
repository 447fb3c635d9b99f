"""What changes a training job's course: pause, resume, cancel, restart."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from api.errors import Conflict, ServiceDown
from api.orchestration.prefect_client import FlowRun
from api.platform import Platform
from api.routes.training.schemas import TrainingTransition
from api.routes.training.service import read_job
from registry.database import Database
from registry.repositories.datasets import DatasetRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.run_states import TERMINAL
from registry.tables import TrainingJob

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2


async def pause_job(platform: Platform, job_id: int) -> TrainingTransition:
    """Ask the trainer to leave, and wait for it: `PAUSED`, or `RUNNING` and `pausing` when it takes longer."""
    job = await _present(platform, job_id)
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


async def cancel_job(platform: Platform, job_id: int) -> TrainingTransition:
    """Take the job off the device for good; its last checkpoint is kept, so that it can be restarted."""
    job = await _present(platform, job_id)
    if job.status in TERMINAL:
        raise Conflict(f"Training job {job_id} is {job.status} already; there is nothing to cancel.")
    run = await _flow_run_of(platform, job)
    if not await platform.orchestrator.cancel(run):
        raise Conflict(f"Training job {job_id} can't be cancelled: its run is {run.state_name} in Prefect.")
    job = await _wait(platform, job_id, lambda job: job.status in TERMINAL)
    if job.status == "CANCELLED":
        return TrainingTransition(id=job.id, status="CANCELLED", message="Training job cancelled successfully")
    if job.status in TERMINAL:
        raise Conflict(f"Training job {job_id} was not cancelled: it is {job.status}.")
    message = "Training job is being cancelled; it is CANCELLED as soon as the trainer has left the device"
    return TrainingTransition(id=job.id, status=job.status, message=message)


async def restart_job(platform: Platform, job_id: int) -> TrainingTransition:
    """Queue a cancelled or failed job again, as a new attempt from its last checkpoint."""
    job = await _present(platform, job_id)
    if job.status not in ("CANCELLED", "FAILED"):
        raise Conflict(f"Training job {job_id} is {job.status}; only a CANCELLED or FAILED job can be restarted.")
    await asyncio.to_thread(_require_rows, platform.database, job)
    if job.flow_run_id is None:
        await asyncio.to_thread(_submit_again, platform.database, job_id)
        with suppress(ServiceDown):  # it is accepted: submitted as soon as Prefect answers
            await platform.submission.submit(TrainingJobRepository, job_id)
    else:
        run = await _flow_run_of(platform, job)
        if not await platform.orchestrator.retry(run, "Restarted by hand; it goes on from its newest checkpoint."):
            raise Conflict(f"Training job {job_id} can't be restarted: its run is {run.state_name} in Prefect.")
    await asyncio.to_thread(_forgive, platform.database, job_id)
    job = await _wait(platform, job_id, lambda job: job.status not in ("CANCELLED", "FAILED"))
    return TrainingTransition(id=job.id, status=job.status, message="Training job restarted successfully")


def _require_rows(database: Database, job: TrainingJob) -> None:
    """Raise `Conflict` if a data set that the job was to train on is gone: it would fail, and stay as it is."""
    with database.reading() as session:
        datasets = DatasetRepository(session)
        named = [job.recipe.get("dataset_id"), job.recipe.get("held_out_dataset_id")]
        gone = [dataset_id for dataset_id in named if dataset_id is not None and datasets.get(dataset_id) is None]
    if gone:
        raise Conflict(
            f"Training job {job.id} can't be restarted: data set {gone[0]}, which it trains on, has been deleted. "
            "Upload the rows again and start a new job on them; this one's checkpoints stay until it is deleted."
        )


def _submit_again(database: Database, job_id: int) -> None:
    """Give a job whose run was deleted in Prefect a new one."""
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        job = jobs.require(job_id)
        if job.flow_run_id is None and job.status in TERMINAL:
            jobs.submit_again(job)


def _forgive(database: Database, job_id: int) -> None:
    """A job that a person restarts gets its full number of attempts again."""
    with database.transaction() as session:
        TrainingJobRepository(session).require(job_id, "change").crashes = 0


async def resume_job(platform: Platform, job_id: int) -> TrainingTransition:
    """Let a paused job go on; wait until it runs, or is queued behind another."""
    job = await _present(platform, job_id)
    if job.status != "PAUSED" and not job.pausing:
        raise Conflict(f"Training job {job_id} is {job.status}; only a PAUSED job can be resumed.")
    if job.flow_run_id is None:
        raise Conflict(f"Training job {job_id} is being submitted to Prefect again; try again in a few seconds.")
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


async def _present(platform: Platform, job_id: int) -> TrainingJob:
    """Return the job with its status as Prefect knows it at this moment, if Prefect answers."""
    job = await asyncio.to_thread(read_job, platform.database, job_id)
    if job.flow_run_id is None:
        return job
    try:
        await platform.state_sync.refresh(TrainingJobRepository, job.flow_run_id)
    except ServiceDown as error:
        # What needs Prefect will say so; what the last known status forbids is answered by that.
        logger.warning("training job %d is as last seen: %s", job_id, error)
    return await asyncio.to_thread(read_job, platform.database, job_id)


async def _flow_run_of(platform: Platform, job: TrainingJob) -> FlowRun:
    if job.flow_run_id is None:
        await platform.submission.submit(TrainingJobRepository, job.id)
        job = await asyncio.to_thread(read_job, platform.database, job.id)
    if job.flow_run_id is None:
        raise Conflict(f"Training job {job.id} is {job.status}: {job.error or 'it is being submitted; try again soon'}")
    run = await platform.orchestrator.flow_run(job.flow_run_id)
    if run is None:
        raise Conflict(
            f"The flow run of training job {job.id} has just been deleted in Prefect; try again in a second."
        )
    return run


async def _wait(platform: Platform, job_id: int, done: Callable[[TrainingJob], bool]) -> TrainingJob:
    """Return the job once `done` holds of it, or as it is when the waiting time is over."""
    deadline = time.monotonic() + platform.settings.pause_wait_seconds
    while True:
        job = await _present(platform, job_id)
        if done(job) or time.monotonic() > deadline:
            return job
        await asyncio.sleep(POLL_SECONDS)
