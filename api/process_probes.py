"""`GET /livez` and `GET /readyz`, without a key: whether this process runs, and whether it can serve.

`GET /health` is `/readyz` by the name that clients of other inference servers know.
"""

import asyncio
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LIVEZ, READYZ, HEALTH = "/livez", "/readyz", "/health"
METHODS = ("GET", "HEAD")
RETRY_AFTER = {"Retry-After": "2"}


class ProcessProbes:
    """Answers both paths by itself, and passes everything else on."""

    def __init__(self, app: ASGIApp, objection: Callable[[], str | None]) -> None:
        """`objection` returns why this process can't serve, None if it can; it may block."""
        self.app = app
        self._objection = objection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a probe, or pass the request on."""
        if scope["type"] != "http" or scope["path"] not in (LIVEZ, READYZ, HEALTH) or scope["method"] not in METHODS:
            await self.app(scope, receive, send)
            return
        objection = None if scope["path"] == LIVEZ else await asyncio.to_thread(self._objection)
        if objection is None:
            answer = JSONResponse({"status": "alive" if scope["path"] == LIVEZ else "ready"})
        else:
            answer = JSONResponse({"error": objection, "code": "not_ready"}, 503, RETRY_AFTER)
        await answer(scope, receive, send)
