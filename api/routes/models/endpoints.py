"""Model endpoints."""

from fastapi import APIRouter, Response, status
from fastapi.responses import StreamingResponse

from api.idempotency import OnceOnly
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
)
from api.schemas import EVENT_STREAM, After, Limit, ModelId

router = APIRouter(prefix="/models", tags=["models"])


@router.get("")
def list_models(platform: CurrentPlatform, limit: Limit = None, after: After = None) -> ModelList:
    """Get all available models."""
    models = service.list_models(platform.database, limit, after)
    return ModelList(models=[ModelSummary.model_validate(model) for model in models])


@router.get("/{model_id}")
def get_model(platform: CurrentPlatform, model_id: ModelId) -> ModelDetail:
    """Get specific model information."""
    model = service.read_model(platform.database, model_id)
    return ModelDetail.model_validate(model).model_copy(update={"loaded": service.is_loaded(platform, model)})


@router.delete("/{model_id}")
def delete_model(platform: CurrentPlatform, model_id: ModelId) -> ModelDeleted:
    """Delete a model that nothing uses, and its adapter."""
    deleted = service.delete_model(platform, model_id)
    note = promotion.dismiss_champion(platform, deleted)
    return ModelDeleted(id=model_id, message="Model deleted successfully", note=note)


@router.post("", status_code=status.HTTP_201_CREATED)
def create_model(platform: CurrentPlatform, body: ModelCreate, once: OnceOnly) -> ModelCreated:
    """Create a new model."""
    return ModelCreated(**service.create_model(platform, body, once).answer)


@router.post("/{model_id}/generate", response_model=GenerateResponse, responses=EVENT_STREAM)
async def generate_text(
    platform: CurrentPlatform, model_id: ModelId, body: GenerateRequest
) -> Response | GenerateResponse:
    """Generate text using a specific model."""
    if body.stream:
        events = await service.stream(platform, model_id, body)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    return await service.generate(platform, model_id, body)


@router.post("/{model_id}/promote")
async def promote_model(platform: CurrentPlatform, model_id: ModelId, body: PromoteRequest | None = None) -> Promoted:
    """Make a fine-tuned model the champion of its base, if it is better than the present one beyond noise."""
    return await promotion.promote_model(platform, model_id, body or PromoteRequest())
