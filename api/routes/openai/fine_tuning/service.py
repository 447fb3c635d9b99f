"""What the fine-tuning endpoints do, over the services of the documented API."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping

from pydantic import TypeAdapter, ValidationError

from api.errors import Invalid
from api.idempotency import IdempotentRequest
from api.openai_ids import FILE, cursor, number_of
from api.platform import Platform
from api.routes.openai.fine_tuning.presenter import event_object, job_objects
from api.routes.openai.fine_tuning.schemas import FineTuningJob, JobCreate, JobEvent
from api.routes.openai.names import named
from api.routes.openai.pages import Page, page_of
from api.routes.training.schemas import MetadataKey, TrainingTransition
from api.routes.training.service import create_job, job_in
from registry.repositories.training_jobs import TrainingJobRepository

FILTER_SHAPE = re.compile(r"metadata\[(.*)\]", re.DOTALL)
KEY: TypeAdapter[str] = TypeAdapter(MetadataKey)
Change = Callable[[Platform, int], Awaitable[TrainingTransition]]


async def create(platform: Platform, body: JobCreate, once: IdempotentRequest | None) -> FineTuningJob:
    """Create a job; raises what `api.routes.training.service.create_job` raises, and `NotFound` for unknown names."""

    def model_id() -> int:
        with platform.database.reading() as session:
            return named(session, body.model).id

    held_out = number_of(body.validation_file, FILE) if body.validation_file is not None else None
    training = body.as_training(await asyncio.to_thread(model_id), number_of(body.training_file, FILE), held_out)
    created = await create_job(platform, training, once)
    return await asyncio.to_thread(read, platform, created["id"])


def read(platform: Platform, job_id: int) -> FineTuningJob:
    """Return a job, or raise `NotFound`."""
    with platform.database.reading() as session:
        return job_objects(session, [job_in(session, job_id)])[0]


async def change(platform: Platform, job_id: int, how: Change) -> FineTuningJob:
    """Pause, resume or cancel a job, and return it as it is then; raises what `how` raises."""
    await how(platform, job_id)
    return await asyncio.to_thread(read, platform, job_id)


def list_jobs(
    platform: Platform, limit: int, after: str | None, query: Mapping[str, str], *, unlabelled: bool
) -> Page[FineTuningJob]:
    """Return a page of the jobs, newest first: those with the labels that `query` names, or without any."""
    labels = _labels(query)
    if unlabelled and labels:
        raise Invalid("metadata=null and metadata[KEY]=VALUE exclude each other; ask for one of them.")
    with platform.database.reading() as session:
        jobs = TrainingJobRepository(session).newest(limit + 1, cursor(after), labels, unlabelled=unlabelled)
        return page_of(job_objects(session, jobs), limit)


def list_events(platform: Platform, job_id: int, limit: int, after: str | None) -> Page[JobEvent]:
    """Return a page of a job's events, newest first; raises `NotFound` for an unknown job."""
    with platform.database.reading() as session:
        job_in(session, job_id)
        events = TrainingJobRepository(session).newest_events(job_id, cursor(after), limit + 1)
        return page_of([event_object(event) for event in events], limit)


def _labels(query: Mapping[str, str]) -> dict[str, str]:
    """Return the keys and values that are asked for; raises `Invalid` for a key that no job can have."""
    labels = {match[1]: value for name, value in query.items() if (match := FILTER_SHAPE.fullmatch(name))}
    for key in labels:
        try:
            KEY.validate_python(key)
        except ValidationError as error:
            raise Invalid(f"metadata[{key}] can't be asked for: {error.errors()[0]['msg']}.") from error
    return labels
