"""Server-sent events as OpenAI's SDK reads them: chunks, perhaps the usage, and `[DONE]`."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.errors import OPENAI_PREFIX, engine_problem
from api.generation.connections import following
from api.generation.engine_client import EngineRefused, EngineUnavailable
from api.routes.openai.answers import Asked, Event

Chunks = Callable[[int, dict[str, Any]], list[dict[str, Any]]]
"""The choices that an event of an answer becomes, one chunk each."""


async def stream(
    asked: Asked, kind: str, events: AsyncGenerator[Event, None], choices_of: Chunks, *, include_usage: bool
) -> StreamingResponse:
    """Return the answer as a stream. What fails before the first token is raised here, and gets a status of its own."""
    first = await anext(events)
    lines = _lines(asked, kind, first, events, choices_of, include_usage=include_usage)
    return _ClosingStream(lines, events)


class _ClosingStream(StreamingResponse):
    """Ends what it streams however the response ends, so that a client that goes away frees its places at once."""

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncGenerator[str, None], events: AsyncGenerator[Event, None]) -> None:
        super().__init__(lines, headers={"Cache-Control": "no-store"})
        self._generators = (lines, events)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events (ASGI)."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            for generator in self._generators:
                await generator.aclose()


async def _lines(
    asked: Asked, kind: str, first: Event, rest: AsyncIterator[Event], choices_of: Chunks, *, include_usage: bool
) -> AsyncGenerator[str, None]:
    head = asked.head(kind) | ({"usage": None} if include_usage else {})
    prompt_tokens, generated_tokens = [0] * len(asked.requests), [0] * len(asked.requests)
    try:
        async for index, event in following(first, rest):
            for choice in choices_of(index, event):
                yield _line(head | {"choices": [choice]})
            if event.get("done"):
                prompt_tokens[index], generated_tokens[index] = event["prompt_tokens"], event["generated_tokens"]
    except (EngineRefused, EngineUnavailable) as error:
        # The status line has gone out; the SDK raises what it finds under "error".
        body = bytes(engine_problem(error).response(OPENAI_PREFIX).body)
        yield _line(json.loads(body))
        return
    if include_usage:
        yield _line(head | {"choices": [], "usage": asked.usage(prompt_tokens, generated_tokens)})
    yield "data: [DONE]\n\n"


def _line(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"
