"""OpenAI's endpoints: models, completions, chat, embeddings."""

from fastapi import APIRouter, Request, Response

from api.errors import Invalid
from api.generation.connections import answered
from api.platform import CurrentPlatform
from api.routes.models.promotion import dismiss_champion
from api.routes.models.service import delete_model
from api.routes.openai import names
from api.routes.openai.chat import chat
from api.routes.openai.completions import complete
from api.routes.openai.embeddings import EmbeddingsRequest, EmbeddingsResponse, embed
from api.routes.openai.fine_tuning.checkpoints import checkpoint_of
from api.routes.openai.schemas import ChatRequest, CompletionRequest, ModelDeleted, ModelObject, ModelObjects
from api.routes.openai.tolerant import name_ignored
from api.schemas import EVENT_STREAM
from registry.clock import unix_seconds
from registry.tables import Model

router = APIRouter(tags=["openai"])


@router.get("/models")
def list_models(platform: CurrentPlatform) -> ModelObjects:
    """Get all models that can be named."""
    with platform.database.reading() as session:
        found = names.all_named(session)
    return ModelObjects(data=[_model_object(model) for model in found.values()])


@router.get("/models/{name:path}")
def get_model(platform: CurrentPlatform, name: str) -> ModelObject:
    """Get one model, or a checkpoint, by its name."""
    checkpoint = checkpoint_of(platform, name)
    if checkpoint is not None:
        return ModelObject(id=name, created=int(checkpoint.kept.saved_at))
    with platform.database.reading() as session:
        return _model_object(names.named(session, name))


@router.delete("/models/{name:path}")
def delete_fine_tuned_model(platform: CurrentPlatform, name: str) -> ModelDeleted:
    """Delete a fine-tuned model that nothing uses, and its adapter."""
    with platform.database.reading() as session:
        model = names.named(session, name)
    if model.adapter is None:
        raise Invalid(f"model is '{name}', a base model; only fine-tuned models are deleted here.")
    dismiss_champion(platform, delete_model(platform, model.id))
    return ModelDeleted(id=name)


@router.post("/completions", responses=EVENT_STREAM, response_model=None)
async def create_completion(platform: CurrentPlatform, request: Request, body: CompletionRequest) -> Response:
    """Continue a text."""
    return name_ignored(await answered(request, complete(platform, body)), body)


@router.post("/chat/completions", responses=EVENT_STREAM, response_model=None)
async def create_chat_completion(platform: CurrentPlatform, request: Request, body: ChatRequest) -> Response:
    """Answer a conversation."""
    return name_ignored(await answered(request, chat(platform, body)), body)


@router.post("/embeddings", response_model=EmbeddingsResponse)
async def create_embeddings(platform: CurrentPlatform, request: Request, body: EmbeddingsRequest) -> Response:
    """Turn texts into vectors of unit length."""
    return name_ignored(await answered(request, embed(platform, body)), body)


def _model_object(model: Model) -> ModelObject:
    return ModelObject(id=names.name_of(model), created=unix_seconds(model.created_at))
