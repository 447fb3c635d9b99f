"""OpenAI's fine-tuning endpoints, onto our training jobs."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request

from api.idempotency import OnceOnly
from api.openai_ids import CHECKPOINT, EVENT, JOB, NUMBER, number_of
from api.platform import CurrentPlatform
from api.routes.openai.fine_tuning import checkpoints, service
from api.routes.openai.fine_tuning.schemas import Checkpoint, FineTuningJob, JobCreate, JobEvent
from api.routes.openai.pages import Limit, Page, after_id
from api.routes.training.lifecycle import cancel_job, pause_job, resume_job

router = APIRouter(prefix="/fine_tuning/jobs", tags=["openai"])

JobName = Annotated[str, Path(description=f"Id of a job, such as {JOB}1")]


@router.get("")
def list_jobs(
    platform: CurrentPlatform,
    request: Request,
    limit: Limit = 20,
    after: Annotated[str | None, after_id(f"{JOB}{NUMBER}")] = None,
    metadata: Annotated[Literal["null"] | None, Query(description="Jobs without any; or `metadata[KEY]=VALUE`")] = None,
) -> Page[FineTuningJob]:
    """Get jobs, newest first."""
    return service.list_jobs(platform, limit, after, request.query_params, unlabelled=metadata is not None)


@router.post("")
async def create_job(platform: CurrentPlatform, body: JobCreate, once: OnceOnly) -> FineTuningJob:
    """Create and start a job."""
    return await service.create(platform, body, once)


@router.get("/{job_id}")
def get_job(platform: CurrentPlatform, job_id: JobName) -> FineTuningJob:
    """Get one job."""
    return service.read(platform, number_of(job_id, JOB))


@router.post("/{job_id}/cancel")
async def cancel(platform: CurrentPlatform, job_id: JobName) -> FineTuningJob:
    """Take a job off the device; its last checkpoints are kept."""
    return await service.change(platform, number_of(job_id, JOB), cancel_job)


@router.post("/{job_id}/pause")
async def pause(platform: CurrentPlatform, job_id: JobName) -> FineTuningJob:
    """Pause a job, and answer when the trainer has left the device."""
    return await service.change(platform, number_of(job_id, JOB), pause_job)


@router.post("/{job_id}/resume")
async def resume(platform: CurrentPlatform, job_id: JobName) -> FineTuningJob:
    """Let a paused job go on."""
    return await service.change(platform, number_of(job_id, JOB), resume_job)


@router.get("/{job_id}/events")
def list_events(
    platform: CurrentPlatform,
    job_id: JobName,
    limit: Limit = 20,
    after: Annotated[str | None, after_id(f"{EVENT}{NUMBER}")] = None,
) -> Page[JobEvent]:
    """Get what happened to a job, newest first."""
    return service.list_events(platform, number_of(job_id, JOB), limit, after)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    platform: CurrentPlatform,
    job_id: JobName,
    limit: Limit = 10,
    after: Annotated[str | None, after_id(f"{CHECKPOINT}{NUMBER}-[0-9]{{1,9}}")] = None,
) -> Page[Checkpoint]:
    """Get the checkpoints that are kept, newest first; each can be named as a model."""
    return checkpoints.list_checkpoints(platform, number_of(job_id, JOB), limit, after)
