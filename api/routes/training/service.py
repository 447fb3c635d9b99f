"""What the training endpoints do: create, show and delete jobs."""

import asyncio
import logging
import shutil
from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.disk import require_disk
from api.errors import Conflict, Invalid, NotFound, ServiceDown, TooLittleMemory
from api.idempotency import Answer, IdempotentRequest, create_once
from api.platform import Platform
from api.routes.datasets.service import require_dataset
from api.routes.models.service import model_in, require_loadable
from api.routes.training.memory import has_gpu, lack_of_memory
from api.routes.training.presenter import detail_of
from api.routes.training.schemas import TrainingCreate, TrainingCreated, TrainingDetail
from configs.dataset import BUILT_IN_DATASET_ID
from configs.recipe import Method
from registry.attempts import attempt_is_alive
from registry.database import Database
from registry.repositories.training_jobs import TrainingJobRepository
from registry.run_states import TERMINAL
from registry.submissions import job_of_parameters
from registry.tables import TrainingJob
from tasks.job.folder import JobFolder, served_prefix
from tasks.training.errors import MethodUnavailable
from tasks.training.installed import require_bitsandbytes
from tasks.training.machine import gpus

logger = logging.getLogger(__name__)

CREATED = "Training job created and started successfully"
ACCEPTED = "Training job created; it starts as soon as the Prefect server answers"


def list_jobs(database: Database, limit: int | None, after: int | None) -> Sequence[TrainingJob]:
    """Return training jobs in id order."""
    with database.reading() as session:
        return TrainingJobRepository(session).list(limit, after)


def read_job(database: Database, job_id: int) -> TrainingJob:
    """Return the job, or raise `NotFound`."""
    with database.reading() as session:
        return job_in(session, job_id)


def job_in(session: Session, job_id: int) -> TrainingJob:
    """Return the job within a session, or raise `NotFound`."""
    job = TrainingJobRepository(session).get(job_id)
    if job is None:
        raise NotFound(f"There is no training job with the id {job_id}; GET /api/training lists those there are.")
    return job


def read_detail(database: Database, job_id: int) -> TrainingDetail:
    """Return the job with its log, attempts and place in the queue, or raise `NotFound`."""
    with database.reading() as session:
        jobs = TrainingJobRepository(session)
        job = job_in(session, job_id)
        return detail_of(
            job, jobs.log_lines(job_id), jobs.attempts(job_id), jobs.queue_position(job), jobs.memory_plan(job_id)
        )


def delete_job(platform: Platform, job_id: int) -> None:
    """Delete an ended job with its events and checkpoints; the model that it made stays."""
    with platform.database.transaction() as session:
        job = job_in(session, job_id)
        if job.status not in TERMINAL or attempt_is_alive(job):
            raise Conflict(f"Training job {job_id} is {job.status}; cancel it before you delete it.")
        TrainingJobRepository(session).remove(job)
        checkpoints = list(platform.settings.adapters_dir.glob(f"{served_prefix(job.uid)}*"))
    # After the commit: files without a job are litter, a job without its files would be a lie.
    for folder in (JobFolder(platform.settings.jobs_dir, job_id).path, *checkpoints):
        shutil.rmtree(folder, ignore_errors=True)


async def create_job(platform: Platform, body: TrainingCreate, once: IdempotentRequest | None) -> Answer:
    """Accept a job: once it is in our table it will run, now or when Prefect answers again."""
    _require_method(body.method)
    message = CREATED if platform.monitor.answers("prefect") else ACCEPTED
    # Looked at before the transaction, and for its eyes only: the answer to a repeated key does not depend on it.
    await asyncio.to_thread(_require_devices, platform, body.devices)
    lack = await asyncio.to_thread(lack_of_memory, platform, body)

    def insert(session: Session) -> tuple[int, Answer]:
        require_disk(platform.settings)
        return _insert_job(session, body, message, lack)

    created = await asyncio.to_thread(create_once, platform.database, once, insert)
    try:
        await platform.reconciler.submit_waiting()
    except ServiceDown as error:
        logger.warning("training job %d waits to be submitted: %s", created.resource_id, error)
    return created.answer


def _require_method(method: Method) -> None:
    """Raise `Invalid` if a package that the method needs is not installed; the trainer knows of the GPU."""
    if method == "qlora":
        try:
            require_bitsandbytes()
        except MethodUnavailable as error:
            raise Invalid(f"{error}.") from error


def _require_devices(platform: Platform, devices: int) -> None:
    """Raise `Invalid` for more devices than there are GPUs, if there are any; the trainer sees which it may use."""
    if devices > 1 and has_gpu(platform.settings) and 0 < len(gpus()) < devices:
        raise Invalid(f"devices is {devices}, but this machine has {len(gpus())} GPUs: ask for that many at most.")


def _insert_job(
    session: Session, body: TrainingCreate, message: str, lack: TooLittleMemory | None
) -> tuple[int, Answer]:
    require_loadable(model_in(session, body.model_id))
    require_dataset(session, body.dataset_id)
    require_dataset(session, body.held_out_dataset_id)
    if body.held_out_dataset_id == (body.dataset_id or BUILT_IN_DATASET_ID):
        message = f"Data set {body.held_out_dataset_id} is the one to train on; hold out the rows of another one."
        raise Conflict(message)
    if lack is not None:
        raise lack
    job = job_of_parameters(body)
    job.labels = body.metadata
    TrainingJobRepository(session).add(job)
    answer = TrainingCreated(id=job.id, job_name=job.job_name, model_id=job.model_id, status="PENDING", message=message)
    return job.id, answer.model_dump()
