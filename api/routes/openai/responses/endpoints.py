"""OpenAI's endpoints of responses."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from api.generation.connections import answered
from api.platform import CurrentPlatform
from api.routes.openai.responses import background, service, stored
from api.routes.openai.responses.schemas import (
    InputTokens,
    PromptRequest,
    ResponseDeleted,
    ResponseRequest,
    without_effect,
)
from api.routes.openai.tolerant import name_ignored
from api.schemas import EVENT_STREAM

router = APIRouter(prefix="/responses", tags=["openai"])

LARGEST_PAGE = 100
Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="At most this many")]
After = Annotated[str | None, Query(description="Id of the item that the page begins after")]
Number = Annotated[int | None, Query(ge=0, lt=2**53, description="Only events with a `sequence_number` beyond this")]
Streamed = Annotated[bool, Query(description="The events of one that was made with `background` and `stream`")]


@router.post("", responses=EVENT_STREAM, response_model=None)
async def create_response(platform: CurrentPlatform, request: Request, body: ResponseRequest) -> Response:
    """Answer items, and keep the answer for later requests."""
    response = await answered(request, service.create_response(platform, body))
    return name_ignored(response, body, without_effect(body))


@router.post("/input_tokens", response_model=InputTokens)
async def count_input_tokens(
    platform: CurrentPlatform, request: Request, body: PromptRequest
) -> InputTokens | Response:
    """Count the tokens of a prompt."""
    return await answered(request, service.count_tokens(platform, body))


@router.get("/{response_id}", responses=EVENT_STREAM, response_model=None)
async def get_response(
    platform: CurrentPlatform, response_id: str, stream: Streamed = False, starting_after: Number = None
) -> Response:
    """Get a stored response."""
    return await service.get_response(platform, response_id, streamed=stream, after=starting_after)


@router.delete("/{response_id}")
def delete_response(platform: CurrentPlatform, response_id: str) -> ResponseDeleted:
    """Delete a stored response; one that is being answered is ended by that."""
    stored.delete_response(platform, response_id)
    return ResponseDeleted(id=response_id)


@router.post("/{response_id}/cancel")
async def cancel_response(platform: CurrentPlatform, response_id: str) -> dict[str, Any]:
    """End a response that is answered in the background."""
    return await background.cancel(platform, response_id)


@router.get("/{response_id}/input_items")
def list_input_items(
    platform: CurrentPlatform, response_id: str, limit: Limit = 20, after: After = None, order: stored.Order = "desc"
) -> dict[str, Any]:
    """Get the items that a response was made from, the newest first unless `order` says otherwise."""
    return stored.input_items(platform, response_id, limit, after, order)
