"""Anthropic's endpoints of messages."""

from fastapi import APIRouter, Request, Response

from api.generation.connections import answered
from api.platform import CurrentPlatform
from api.routes.anthropic import service
from api.routes.anthropic.schemas import CountRequest, MessagesRequest, TokenCount
from api.routes.openai.tolerant import name_ignored
from api.schemas import EVENT_STREAM

router = APIRouter(prefix="/messages", tags=["anthropic"])


@router.post("", responses=EVENT_STREAM, response_model=None)
async def create_message(platform: CurrentPlatform, request: Request, body: MessagesRequest) -> Response:
    """Answer messages of Anthropic's shape."""
    return name_ignored(await answered(request, service.create_message(platform, body)), body)


@router.post("/count_tokens", response_model=TokenCount)
async def count_message_tokens(
    platform: CurrentPlatform, request: Request, body: CountRequest
) -> TokenCount | Response:
    """Count the tokens of a prompt."""
    return await answered(request, service.count_tokens(platform, body))
