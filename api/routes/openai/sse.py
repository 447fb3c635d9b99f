"""Server-sent events as OpenAI's SDK reads them: chunks, perhaps the usage, and `[DONE]`."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from fastapi.sse import format_sse_event

from api.errors import OPENAI_PREFIX, Busy, engine_problem, platform_error_response
from api.generation.connections import following
from api.generation.engine_client import EngineRefused, EngineUnavailable
from api.generation.sse import EventStream, event
from api.routes.openai.answers import Asked

END = format_sse_event(data_str="[DONE]")


async def stream(
    lines: AsyncGenerator[bytes, None], failed: Callable[[dict[str, Any]], bytes] = event, path: str = OPENAI_PREFIX
) -> EventStream:
    """Return lines as a stream. What fails before the first of them is raised here, and gets a status of its own.

    `failed` makes a line of a later error, which is in the shape of errors under `path`.
    """
    return EventStream(_to_the_end(await anext(lines), lines, failed, path), lines, cache_control="no-store")


async def _to_the_end(
    first: bytes, rest: AsyncIterator[bytes], failed: Callable[[dict[str, Any]], bytes], path: str
) -> AsyncGenerator[bytes, None]:
    try:
        async for line in following(first, rest):
            yield line
    except (EngineRefused, EngineUnavailable, Busy) as error:
        # The status line has gone out; the SDK raises what it finds under "error".
        if isinstance(error, Busy):
            response = platform_error_response(error, path)
        else:
            response = engine_problem(error).response(path)
        yield failed(json.loads(bytes(response.body)))


def ending(
    asked: Asked,
    head: dict[str, Any],
    prompt_tokens: Sequence[int],
    generated_tokens: Sequence[int],
    reasoning_tokens: int | None = None,
) -> Iterator[bytes]:
    """Yield what follows the last chunk: the token counts of all answers, if they are wanted, and the end."""
    if asked.include_usage:
        yield event(head | {"choices": [], "usage": asked.usage(prompt_tokens, generated_tokens, reasoning_tokens)})
    yield END
