"""ASGI guards before any route: which pages of browsers are served, and that bodies have a limit."""

from collections.abc import Mapping, Sequence

from starlette import status
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ForeignHost, ForeignOrigin, TooLarge, platform_error_response
from registry.guards.sites import Refusal


def site_answer(refusal: Refusal, path: str) -> ASGIApp:
    """Return what a request gets that is of a foreign host or site, in the shape of errors under its path."""
    error = ForeignHost(refusal.message) if refusal.code == "foreign_host" else ForeignOrigin(refusal.message)
    return platform_error_response(error, path)


class BrowserClients(CORSMiddleware):
    """Lets pages of the allowed origins read answers; before the keys, as a preflight request carries none."""

    def __init__(self, app: ASGIApp, allowed_origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=allowed_origins,
            allow_methods=("DELETE", "GET", "PATCH", "POST", "PUT"),
            # Whatever a client sends: OpenAI's SDK has a dozen of its own. Keys are headers; there are no cookies.
            allow_headers=("*",),
            expose_headers=("Retry-After", "WWW-Authenticate", "X-Ignored-Parameters", "X-Tool-Prompt"),
            allow_private_network=True,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight request; a refusal is in the API's shape of errors.

        Without any allowed origin it is an answer that allows nothing, as of a server that knows no pages.
        """
        if not self.allow_origins:
            return Response(status_code=status.HTTP_204_NO_CONTENT, headers={"Vary": "Origin"})
        answer = super().preflight_response(request_headers)
        if answer.status_code < status.HTTP_400_BAD_REQUEST:
            return answer
        message = (
            f"Pages of {request_headers.get('origin', '')[:200]!r} may not ask for this "
            f"({bytes(answer.body).decode()}); LLM_PLATFORM_ALLOWED_ORIGINS names the origins that may."
        )
        return platform_error_response(ForeignOrigin(message), "")

    async def simple_response(self, scope: Scope, receive: Receive, send: Send, request_headers: Headers) -> None:
        """Answer a request of a page; without any allowed origin as any other."""
        if self.allow_origins:
            await super().simple_response(scope, receive, send, request_headers)
        else:
            await self.app(scope, receive, send)


class HeadRequests:
    """Answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer a HEAD request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        ended = False

        async def send_head(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.start":
                await send(message)
            elif not ended:
                # A stream would go on: its client has all that it asked for.
                ended = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self.app({**scope, "method": "GET"}, receive, send_head)


class BodyLimit:
    """Refuses request bodies beyond a limit, declared or streamed, before they fill memory or disk."""

    def __init__(self, app: ASGIApp, max_bytes: int, of_paths: Mapping[str, int]) -> None:
        """`of_paths` gives paths a limit of their own, in bytes as `max_bytes` is."""
        self.app = app
        self.max_bytes = max_bytes
        self.of_paths = of_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.of_paths.get(scope["path"], self.max_bytes)
        error = TooLarge(f"The request body is larger than {limit} bytes, the most that is accepted here.")
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > limit:
            await platform_error_response(error, scope["path"])(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise error
            return message

        async def send_unless_too_large(message: Message) -> None:
            # The app takes the error for a body that can't be parsed, and would answer 400.
            if received <= limit:
                await send(message)

        try:
            await self.app(scope, counted, send_unless_too_large)
        except TooLarge:
            if received <= limit:
                raise
        if received > limit:
            await platform_error_response(error, scope["path"])(scope, receive, send)
