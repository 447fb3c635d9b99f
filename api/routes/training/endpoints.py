"""Training doors."""

from typing import Any

from fastapi import APIRouter, Response, status

from api.idempotency import OnceOnly
from api.platform import Parts
from api.routes.training import service
from api.routes.training.presenter import detail_of, summary_of
from api.routes.training.schemas import (
    TrainingCreate,
    TrainingCreated,
    TrainingDetail,
    TrainingList,
    TrainingTransition,
)
from api.schemas import After, JobId, Limit

router = APIRouter(prefix="/training", tags=["training"])

NOT_YET: dict[int | str, dict[str, Any]] = {
    202: {"model": TrainingTransition, "description": "Asked for, and not yet done"}
}


@router.get("")
def list_training_jobs(parts: Parts, limit: Limit = None, after: After = None) -> TrainingList:
    """Get all training jobs."""
    return TrainingList(training_jobs=[summary_of(job) for job in service.list_jobs(parts.database, limit, after)])


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_training_job(parts: Parts, body: TrainingCreate, once: OnceOnly) -> TrainingCreated:
    """Create and start a new training job."""
    return TrainingCreated(**await service.create_job(parts, body, once))


@router.get("/{job_id}")
def get_training_job(parts: Parts, job_id: JobId) -> TrainingDetail:
    """Get detailed information about a specific training job."""
    return detail_of(service.read_job(parts.database, job_id), service.read_log(parts.database, job_id))


@router.post("/{job_id}/pause", responses=NOT_YET)
async def pause_training_job(parts: Parts, job_id: JobId, response: Response) -> TrainingTransition:
    """Pause a running training job."""
    answer = await service.pause_job(parts, job_id)
    response.status_code = status.HTTP_200_OK if answer.status == "PAUSED" else status.HTTP_202_ACCEPTED
    return answer


@router.post("/{job_id}/resume", responses=NOT_YET)
async def resume_training_job(parts: Parts, job_id: JobId, response: Response) -> TrainingTransition:
    """Resume a paused training job."""
    answer = await service.resume_job(parts, job_id)
    response.status_code = status.HTTP_200_OK if answer.status == "RUNNING" else status.HTTP_202_ACCEPTED
    return answer
