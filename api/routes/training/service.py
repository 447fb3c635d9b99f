"""What the training endpoints do: create, show and delete jobs."""

import asyncio
import logging
import shutil

from safetensors import SafetensorError
from sqlalchemy.orm import Session

from api.disk import require_disk
from api.errors import Conflict, Invalid, NotFound, ServiceDown, TooLittleMemory
from api.generation.model_input import require_loadable
from api.idempotency import Answer, IdempotentRequest, create_once
from api.listing import Paging, Part
from api.platform import Platform
from api.routes.datasets.service import require_dataset
from api.routes.models.service import model_in
from api.routes.training.memory import has_gpu, lack_of_memory
from api.routes.training.presenter import detail_of
from api.routes.training.schemas import TrainingCreate, TrainingCreated, TrainingDetail
from configs.dataset import BUILT_IN_DATASET_ID
from configs.recipe import Method
from registry.attempts import attempt_is_alive
from registry.database import Database
from registry.repositories.datasets import DatasetRepository
from registry.repositories.locking import Lock
from registry.repositories.models import ModelRepository
from registry.repositories.paging import Filters
from registry.repositories.training_jobs import TrainingJobRepository
from registry.run_states import TERMINAL
from registry.submissions import job_of_parameters
from registry.tables import TrainingJob
from registry.weights import has_experts, has_vision, linear_layers, names_layer, weights_on_disk
from tasks.job.folder import JobFolder, served_prefix
from tasks.training.errors import MethodUnavailable
from tasks.training.installed import require_bitsandbytes
from tasks.training.machine import gpus

logger = logging.getLogger(__name__)

CREATED = "Training job created and started successfully"
ACCEPTED = "Training job created; it starts as soon as the Prefect server answers"
VISION_LEFT_OUT = "; the model's vision tower is neither trained nor asked"
EXPERTS_LEFT_OUT = "; the model's experts and routers are not trained, its other linear layers are"


def list_jobs(database: Database, paging: Paging, filters: Filters) -> Part[TrainingJob]:
    """Return the wanted part of the training jobs."""
    with database.reading() as session:
        jobs = TrainingJobRepository(session)
        return paging.read(lambda limit, after, newest: jobs.list(limit, after, filters, newest_first=newest))


def read_job(database: Database, job_id: int) -> TrainingJob:
    """Return the job, or raise `NotFound`."""
    with database.reading() as session:
        return job_in(session, job_id)


def job_in(session: Session, job_id: int, lock: Lock | None = None) -> TrainingJob:
    """Return the job within a session, or raise `NotFound`."""
    job = TrainingJobRepository(session).get(job_id, lock)
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
        job = job_in(session, job_id, "change")
        if job.status not in TERMINAL:
            raise Conflict(f"Training job {job_id} is {job.status}; cancel it before you delete it.")
        if attempt_is_alive(job):
            raise Conflict(
                f"Training job {job_id} is {job.status}, but its process is still leaving the device (process "
                f"{job.attempt_pid} on {job.attempt_host}); try again in a few seconds."
            )
        TrainingJobRepository(session).remove(job)
        checkpoints = list(platform.settings.adapters_dir.glob(f"{served_prefix(job.uid)}*"))
    # After the commit: files without a job are litter, a job without its files would be a lie.
    for folder in (JobFolder(platform.settings.jobs_dir, job_id).path, *checkpoints):
        shutil.rmtree(folder, ignore_errors=True)
    # Nobody's write waits for a hundred thousand events to go; what a killed process has left goes with the next job's.
    while True:
        with platform.database.transaction() as session:
            if not TrainingJobRepository(session).remove_events():
                return


async def create_job(platform: Platform, body: TrainingCreate, once: IdempotentRequest | None) -> Answer:
    """Accept a job: once it is in our table it will run, now or when Prefect answers again."""
    _require_method(body.method)
    message = CREATED if platform.monitor.answers("prefect") else ACCEPTED
    # Looked at before the transaction, and for its eyes only: the answer to a repeated key does not depend on it.
    await asyncio.to_thread(_require_devices, platform, body.devices)
    message += await asyncio.to_thread(_require_layers, platform, body)
    await platform.dataset_checks.require_format(body.model_id, body.chat_format)
    lack = await asyncio.to_thread(lack_of_memory, platform, body)

    def insert(session: Session) -> tuple[int, Answer]:
        require_disk(platform.settings)
        return _insert_job(session, body, message, lack)

    created = await asyncio.to_thread(create_once, platform.database, once, insert)
    try:
        await platform.submission.submit(TrainingJobRepository, created.resource_id)
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


def _require_layers(platform: Platform, body: TrainingCreate) -> str:
    """Return what to add to the answer of layers that no adapter reaches, nothing where there are none.

    Raises `Invalid`, with the names there are, if `target_modules` names a layer that the model has not. Nothing is
    said of a model that is not on this machine, or that is damaged: the trainer sees it.
    """
    with platform.database.reading() as session:
        model = ModelRepository(session).get(body.model_id)
    folder = weights_on_disk(model, platform.settings) if model is not None else None
    if folder is None:
        return ""
    try:
        layers, experts, vision = linear_layers(folder), has_experts(folder), has_vision(folder)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, SafetensorError):
        return ""
    left_out = VISION_LEFT_OUT if vision else ""
    if body.method == "full":
        return left_out
    unknown = [
        target for target in body.target_modules or () if not any(names_layer(layer, target) for layer in layers)
    ]
    if layers and unknown:
        accepted = ", ".join(sorted({layer.rpartition(".")[2] for layer in layers}))
        raise Invalid(
            f"target_modules names {', '.join(unknown)}, which is no linear layer of a block of model {body.model_id}; "
            f"it has: {accepted}."
        )
    return left_out + (EXPERTS_LEFT_OUT if experts else "")


def _require_short_rows(session: Session, body: TrainingCreate) -> None:
    """Raise `Invalid` if the data set's report, made with the same model, tells of a conversation that is too long.

    Where it was made with another one, the job finds out when it tokenizes the rows, before it trains.
    """
    dataset = DatasetRepository(session).get(body.dataset_id) if body.dataset_id is not None else None
    if dataset is None or dataset.report is None or dataset.settings.get("model_id") != body.model_id:
        return
    report = dataset.report
    if not report["shape"].startswith("text") and report["length_max"] > body.max_seq_length:
        number = report.get("longest_row")
        row = "its longest row" if number is None else f"row {number}, its longest,"
        raise Invalid(
            f"cut_rows is 'error', and in data set {dataset.id} {row} has {report['length_max']} tokens, more than "
            f"max_seq_length {body.max_seq_length}: raise that, leave long rows out, or set cut_rows to 'split' or "
            "'truncate'."
        )


def _insert_job(
    session: Session, body: TrainingCreate, message: str, lack: TooLittleMemory | None
) -> tuple[int, Answer]:
    require_loadable(model_in(session, body.model_id, "use"))
    require_dataset(session, body.dataset_id, "use")
    require_dataset(session, body.held_out_dataset_id, "use")
    if body.held_out_dataset_id == (body.dataset_id or BUILT_IN_DATASET_ID):
        message = f"Data set {body.held_out_dataset_id} is the one to train on; hold out the rows of another one."
        raise Conflict(message)
    if body.cut_rows == "error":
        _require_short_rows(session, body)
    if lack is not None:
        raise lack
    job = job_of_parameters(body)
    job.labels = body.metadata
    TrainingJobRepository(session).add(job)
    answer = TrainingCreated(id=job.id, job_name=job.job_name, model_id=job.model_id, status="PENDING", message=message)
    return job.id, answer.model_dump()
