"""Evaluation endpoints."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response, status

from api.generation.connections import CLIENT_CLOSED_REQUEST, ClientGone
from api.idempotency import OnceOnly
from api.listing import FlowFilters, Paged
from api.platform import CurrentPlatform
from api.routes.evaluations import comparing, samples, service
from api.routes.evaluations.samples import Order
from api.routes.evaluations.schemas import (
    Comparison,
    EvaluateRequest,
    EvaluateResponse,
    EvaluationList,
    EvaluationSummary,
    SampleList,
)
from api.schemas import Deleted, EvaluationId, ModelId
from configs.recipe import MetricName

router = APIRouter(tags=["evaluation"])

MOST_SAMPLES = 1000
NOT_YET: dict[int | str, dict[str, Any]] = {202: {"model": EvaluateResponse, "description": "Started, not waited for"}}


@router.get("/evaluations")
def list_evaluations(platform: CurrentPlatform, paging: Paged, filters: FlowFilters) -> EvaluationList:
    """Get all model evaluations, or those that are asked for."""
    part = service.list_evaluations(platform.database, paging, filters)
    return EvaluationList(
        evaluations=[EvaluationSummary.model_validate(one) for one in part.entries], next_after=part.next_after
    )


# Before the route whose id would be "compare".
@router.get("/evaluations/compare")
async def compare_evaluations(
    platform: CurrentPlatform,
    ids: Annotated[str, Query(pattern=r"^[1-9][0-9]{0,9},[1-9][0-9]{0,9}$", description="Two ids, such as `1,2`")],
) -> Comparison:
    """Compare two evaluations row by row: which model is better, and whether that may be chance."""
    return await asyncio.to_thread(comparing.compare_evaluations, platform, ids)


@router.get("/evaluations/{evaluation_id}")
def get_evaluation(platform: CurrentPlatform, evaluation_id: EvaluationId) -> EvaluationSummary:
    """Get one evaluation."""
    return EvaluationSummary.model_validate(service.read_evaluation(platform.database, evaluation_id))


@router.delete("/evaluations/{evaluation_id}")
def delete_evaluation(platform: CurrentPlatform, evaluation_id: EvaluationId) -> Deleted:
    """Delete an evaluation that has ended, with its samples; its jobs and its model stay."""
    service.delete_evaluation(platform, evaluation_id)
    return Deleted(id=evaluation_id, message="Evaluation deleted successfully")


@router.get("/evaluations/{evaluation_id}/samples")
def list_samples(
    platform: CurrentPlatform,
    evaluation_id: EvaluationId,
    order: Annotated[Order, Query(description="Which come first; `first`: as evaluated")] = "worst",
    by: Annotated[
        MetricName | None,
        Query(
            description="Metric that says which are best and worst; none: the first that the evaluation has of "
            "`rouge_score`, `bleu_score`, `perplexity`, `response_diversity`, `avg_response_length`"
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_SAMPLES, description="At most this many")] = 10,
) -> SampleList:
    """Get what the model answered to held-out rows, and what each answer scored."""
    return samples.list_samples(platform, evaluation_id, order, by, limit)


@router.post(
    "/models/{model_id}/evaluate",
    response_model=EvaluateResponse,
    status_code=status.HTTP_201_CREATED,
    responses=NOT_YET,
)
async def evaluate_model(
    platform: CurrentPlatform,
    request: Request,
    model_id: ModelId,
    response: Response,
    once: OnceOnly,
    body: EvaluateRequest | None = None,
    wait: Annotated[bool, Query(description="Answer when the evaluation is done; else at once, with 202")] = True,
) -> EvaluateResponse | Response:
    """Run evaluation on a specific model."""
    try:
        answer = await service.evaluate(platform, request, model_id, body or EvaluateRequest(), once, wait)
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    response.status_code = status.HTTP_201_CREATED if answer.status == "COMPLETED" else status.HTTP_202_ACCEPTED
    return answer
