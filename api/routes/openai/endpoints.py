"""OpenAI's doors: models, completions, chat."""

from collections.abc import Awaitable
from datetime import UTC

from fastapi import APIRouter, Request, Response

from api.engine.answers import ClientGone, unless_gone
from api.platform import Parts
from api.routes.openai import names
from api.routes.openai.chat import chat
from api.routes.openai.completions import complete
from api.routes.openai.schemas import ChatRequest, CompletionRequest, ModelObject, ModelObjects
from api.schemas import EVENT_STREAM
from registry.tables import Model

router = APIRouter(tags=["openai"])
CLIENT_CLOSED_REQUEST = 499


@router.get("/models")
def list_models(parts: Parts) -> ModelObjects:
    """Get all models that can be named."""
    with parts.database.reading() as session:
        found = names.all_named(session)
    return ModelObjects(data=[_model_object(model) for model in found.values()])


@router.get("/models/{name:path}")
def get_model(parts: Parts, name: str) -> ModelObject:
    """Get one model by its name."""
    with parts.database.reading() as session:
        return _model_object(names.named(session, name))


@router.post("/completions", responses=EVENT_STREAM, response_model=None)
async def create_completion(parts: Parts, request: Request, body: CompletionRequest) -> Response:
    """Continue a text."""
    return await _answer(request, complete(parts, body))


@router.post("/chat/completions", responses=EVENT_STREAM, response_model=None)
async def create_chat_completion(parts: Parts, request: Request, body: ChatRequest) -> Response:
    """Answer a conversation."""
    return await _answer(request, chat(parts, body))


async def _answer(request: Request, work: Awaitable[Response]) -> Response:
    try:
        return await unless_gone(request, work)
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)


def _model_object(model: Model) -> ModelObject:
    return ModelObject(id=names.name_of(model), created=int(model.created_at.replace(tzinfo=UTC).timestamp()))
