"""Training endpoints."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response, status
from fastapi.responses import StreamingResponse

from api.idempotency import OnceOnly
from api.listing import FlowFilters, Paged
from api.platform import CurrentPlatform
from api.routes.training import events, lifecycle, service
from api.routes.training.presenter import summary_of
from api.routes.training.schemas import (
    TrainingCreate,
    TrainingCreated,
    TrainingDetail,
    TrainingEvents,
    TrainingList,
    TrainingTransition,
)
from api.schemas import EVENT_STREAM, LARGEST_EVENT_ID, AfterEvent, Deleted, JobId, Limit

router = APIRouter(prefix="/training", tags=["training"])

NOT_YET: dict[int | str, dict[str, Any]] = {
    202: {"model": TrainingTransition, "description": "Asked for, and not yet done"}
}


@router.get("")
def list_training_jobs(platform: CurrentPlatform, paging: Paged, filters: FlowFilters) -> TrainingList:
    """Get all training jobs, or those that are asked for."""
    part = service.list_jobs(platform.database, paging, filters)
    return TrainingList(training_jobs=[summary_of(job) for job in part.entries], next_after=part.next_after)


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_training_job(platform: CurrentPlatform, body: TrainingCreate, once: OnceOnly) -> TrainingCreated:
    """Create and start a new training job."""
    return TrainingCreated(**await service.create_job(platform, body, once))


@router.get("/{job_id}")
def get_training_job(platform: CurrentPlatform, job_id: JobId) -> TrainingDetail:
    """Get detailed information about a specific training job."""
    return service.read_detail(platform.database, job_id)


@router.delete("/{job_id}")
def delete_training_job(platform: CurrentPlatform, job_id: JobId) -> Deleted:
    """Delete an ended training job with its events and checkpoints; the model that it made stays."""
    service.delete_job(platform, job_id)
    return Deleted(id=job_id, message="Training job deleted successfully")


@router.get("/{job_id}/events", response_model=TrainingEvents, responses=EVENT_STREAM)
async def get_training_events(
    platform: CurrentPlatform,
    job_id: JobId,
    request: Request,
    limit: Limit = None,
    after: AfterEvent = None,
    last_event_id: Annotated[int, Header(ge=0, le=LARGEST_EVENT_ID, description="Where a stream was cut off")] = 0,
) -> Response | TrainingEvents:
    """Get what happened to a training job; with `Accept: text/event-stream`, as it happens."""
    first = await asyncio.to_thread(events.read_events, platform.database, job_id, after, limit)
    if "text/event-stream" not in request.headers.get("accept", ""):
        return TrainingEvents(events=first)
    stream = events.stream_events(platform, job_id, last_event_id or after or 0)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


@router.post("/{job_id}/pause", responses=NOT_YET)
async def pause_training_job(platform: CurrentPlatform, job_id: JobId, response: Response) -> TrainingTransition:
    """Pause a running training job."""
    answer = await lifecycle.pause_job(platform, job_id)
    response.status_code = status.HTTP_200_OK if answer.status == "PAUSED" else status.HTTP_202_ACCEPTED
    return answer


@router.post("/{job_id}/resume", responses=NOT_YET)
async def resume_training_job(platform: CurrentPlatform, job_id: JobId, response: Response) -> TrainingTransition:
    """Resume a paused training job."""
    answer = await lifecycle.resume_job(platform, job_id)
    response.status_code = status.HTTP_200_OK if answer.status == "RUNNING" else status.HTTP_202_ACCEPTED
    return answer


@router.post("/{job_id}/cancel", responses=NOT_YET)
async def cancel_training_job(platform: CurrentPlatform, job_id: JobId, response: Response) -> TrainingTransition:
    """Cancel a training job; its last checkpoint is kept."""
    answer = await lifecycle.cancel_job(platform, job_id)
    response.status_code = status.HTTP_200_OK if answer.status == "CANCELLED" else status.HTTP_202_ACCEPTED
    return answer


@router.post("/{job_id}/restart")
async def restart_training_job(platform: CurrentPlatform, job_id: JobId) -> TrainingTransition:
    """Start a cancelled or failed training job again from its last checkpoint."""
    return await lifecycle.restart_job(platform, job_id)
