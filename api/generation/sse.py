"""Server-sent events: written for clients, read from the engine and from servers in its place.

FastAPI formats them; a route of ours decides on a status before the first of them, which its own kind of route can't.
"""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment, which readers of events skip."""
# Not `str.splitlines`, and so not httpx's lines: JSON may hold U+2028 and others as they are.
_LINE_END = re.compile(r"\r\n|\n|\r(?!\Z)")


def event(data: Any, name: str | None = None) -> bytes:
    """Return one event with JSON as its data, of the kind `name` if it has one."""
    return format_sse_event(data_str=json.dumps(data), event=name)


class EventStream(EventSourceResponse):
    """Ends what it streams however the response ends, so that a client that goes away frees its places at once."""

    def __init__(
        self, events: AsyncGenerator[bytes, None], *sources: AsyncGenerator[Any, None], cache_control: str
    ) -> None:
        """`sources` are what `events` reads from."""
        # nginx, and others after it, would else gather the events before it sends them on.
        super().__init__(events, headers={"Cache-Control": cache_control, "X-Accel-Buffering": "no"})
        self._generators = (events, *sources)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events (ASGI)."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            for generator in self._generators:
                await generator.aclose()


async def data_of(response: httpx.Response) -> AsyncIterator[str]:
    """Yield the data of each event of a response, as they come. Source: the HTML standard, 9.2.6."""
    data: list[str] = []
    async for line in _lines(response):
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []
    if data:
        yield "\n".join(data)


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    rest = ""
    async for text in response.aiter_text():
        *lines, rest = _LINE_END.split(rest + text)
        for line in lines:
            yield line
    if rest:
        yield rest.removesuffix("\r")
