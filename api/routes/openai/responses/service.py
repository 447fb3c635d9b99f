"""What the endpoints of responses do."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from api.generation.sse import KEEP_ALIVE, event
from api.platform import Platform
from api.routes.openai.chat_request import prompt_tokens
from api.routes.openai.responses import background
from api.routes.openai.responses.output import Event
from api.routes.openai.responses.request import chat_request
from api.routes.openai.responses.run import Run, context_of, events_of, prepare
from api.routes.openai.responses.schemas import InputTokens, PromptRequest, ResponseRequest
from api.routes.openai.responses.stored import read_response
from api.routes.openai.sse import stream

BEFORE_THE_FIRST = -1


async def create_response(platform: Platform, body: ResponseRequest) -> Response:
    """Return the response, or a stream of its events; raises what is wrong with the request, and engine errors."""
    run = await prepare(platform, body)
    response = await _answer(platform, body, run)
    response.headers.update(run.headers)
    return response


async def _answer(platform: Platform, body: ResponseRequest, run: Run) -> Response:
    if body.background:
        queued = await background.begin(platform, run)
        if body.stream:
            return await stream(_lines(background.follow(platform, queued["id"], BEFORE_THE_FIRST)))
        return JSONResponse(queued)
    if body.stream:
        return await stream(_lines(events_of(platform, run)))
    return JSONResponse(await _to_the_end(platform, run))


async def count_tokens(platform: Platform, body: PromptRequest) -> InputTokens:
    """Return how many tokens a prompt has, with all that it goes on from; raises as `create_response`."""
    context = await context_of(platform, body)
    return InputTokens(input_tokens=await prompt_tokens(platform, chat_request(body, context.items)))


async def get_response(platform: Platform, uid: str, *, streamed: bool, after: int | None) -> Response:
    """Return a stored response, or the stream of one in the background; raises `NotFound` and `Invalid`."""
    if streamed:
        number = BEFORE_THE_FIRST if after is None else after
        return await stream(_lines(background.follow(platform, uid, number)))
    return JSONResponse(await asyncio.to_thread(read_response, platform, uid))


async def _lines(events: AsyncGenerator[Event | None, None]) -> AsyncGenerator[bytes, None]:
    """Yield events as they are sent; None is a sign of life."""
    async with aclosing(events):
        async for one in events:
            yield KEEP_ALIVE if one is None else event(one, one["type"])


async def _to_the_end(platform: Platform, run: Run) -> dict[str, Any]:
    async with aclosing(events_of(platform, run)) as events:
        async for _ in events:
            pass
    return run.response
