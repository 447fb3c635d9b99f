"""Server-sent events as OpenAI's SDK reads them: chunks, perhaps the usage, and `[DONE]`."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from fastapi.sse import format_sse_event

from api.errors import OPENAI_PREFIX, Busy, engine_problem, platform_error_response
from api.generation.connections import following
from api.generation.engine_client import EngineRefused, EngineUnavailable
from api.generation.service import Event
from api.generation.sse import EventStream, event
from api.routes.openai.answers import Asked

END = format_sse_event(data_str="[DONE]")
Chunks = Callable[[int, dict[str, Any]], list[dict[str, Any]]]
"""The choices that an event of an answer becomes, one chunk each."""


async def stream(
    asked: Asked, kind: str, events: AsyncGenerator[Event, None], choices_of: Chunks, *, include_usage: bool
) -> EventStream:
    """Return the answer as a stream. What fails before the first token is raised here, and gets a status of its own."""
    first = await anext(events)
    lines = _lines(asked, kind, first, events, choices_of, include_usage=include_usage)
    return EventStream(lines, events, cache_control="no-store")


async def _lines(
    asked: Asked, kind: str, first: Event, rest: AsyncIterator[Event], choices_of: Chunks, *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    head = asked.head(kind) | ({"usage": None} if include_usage else {})
    prompt_tokens, generated_tokens = [0] * len(asked.requests), [0] * len(asked.requests)
    try:
        async for index, said in following(first, rest):
            for choice in choices_of(index, said):
                yield event(head | {"choices": [choice]})
            if said.get("done"):
                prompt_tokens[index], generated_tokens[index] = said["prompt_tokens"], said["generated_tokens"]
    except (EngineRefused, EngineUnavailable, Busy) as error:
        # The status line has gone out; the SDK raises what it finds under "error".
        if isinstance(error, Busy):
            response = platform_error_response(error, OPENAI_PREFIX)
        else:
            response = engine_problem(error).response(OPENAI_PREFIX)
        yield event(json.loads(bytes(response.body)))
        return
    if include_usage:
        yield event(head | {"choices": [], "usage": asked.usage(prompt_tokens, generated_tokens)})
    yield END
