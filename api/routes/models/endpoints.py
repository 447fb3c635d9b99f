"""Model endpoints."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi import status as http

from api.generation.connections import answered
from api.idempotency import OnceOnly
from api.listing import CreatedAfter, Name, Paged
from api.platform import CurrentPlatform
from api.routes.models import promotion, service
from api.routes.models.schemas import (
    GenerateRequest,
    GenerateResponse,
    ModelCreate,
    ModelCreated,
    ModelDeleted,
    ModelDetail,
    ModelList,
    ModelSummary,
    Promoted,
    PromoteRequest,
    Status,
)
from api.schemas import EVENT_STREAM, ModelId
from registry.repositories.paging import Filters

router = APIRouter(prefix="/models", tags=["models"])


@router.get("")
def list_models(
    platform: CurrentPlatform,
    paging: Paged,
    status: Annotated[Status | None, Query(description="Only those in this status")] = None,
    name: Name = None,
    created_after: CreatedAfter = None,
) -> ModelList:
    """Get all available models, or those that are asked for."""
    filters = Filters(status=status, name=name, created_after=created_after)
    part = service.list_models(platform.database, paging, filters)
    return ModelList(models=[ModelSummary.model_validate(model) for model in part.entries], next_after=part.next_after)


@router.get("/{model_id}")
async def get_model(platform: CurrentPlatform, model_id: ModelId) -> ModelDetail:
    """Get specific model information."""
    model = await asyncio.to_thread(service.read_model, platform.database, model_id)
    loaded = await service.is_loaded(platform, model)
    return ModelDetail.model_validate(model).model_copy(update={"loaded": loaded})


@router.delete("/{model_id}")
def delete_model(platform: CurrentPlatform, model_id: ModelId) -> ModelDeleted:
    """Delete a model that nothing uses, and its adapter."""
    deleted = service.delete_model(platform, model_id)
    note = promotion.dismiss_champion(platform, deleted)
    return ModelDeleted(id=model_id, message="Model deleted successfully", note=note)


@router.post("", status_code=http.HTTP_201_CREATED)
async def create_model(platform: CurrentPlatform, body: ModelCreate, once: OnceOnly) -> ModelCreated:
    """Create a new model."""
    await platform.dataset_checks.require_format_of_base(body.base_model, body.chat_format)
    created = await asyncio.to_thread(service.create_model, platform, body, once)
    return ModelCreated(**created.answer)


@router.post("/{model_id}/generate", response_model=GenerateResponse, responses=EVENT_STREAM)
async def generate_text(
    platform: CurrentPlatform, request: Request, model_id: ModelId, body: GenerateRequest
) -> Response | GenerateResponse:
    """Generate text using a specific model."""
    if body.stream:
        return await answered(request, service.stream(platform, model_id, body))
    return await answered(request, service.generate(platform, model_id, body))


@router.post("/{model_id}/promote")
async def promote_model(platform: CurrentPlatform, model_id: ModelId, body: PromoteRequest | None = None) -> Promoted:
    """Make a fine-tuned model the champion of its base, if it is better than the present one beyond noise."""
    return await promotion.promote_model(platform, model_id, body or PromoteRequest())
