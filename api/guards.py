"""ASGI guards before any route: foreign hosts are refused, and bodies have a limit."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ForeignHost, TooLarge, platform_error_response


class HostGuard:
    """Refuses requests whose `Host` is not ours, so that a web page can't reach the API by DNS rebinding."""

    def __init__(self, app: ASGIApp, allowed_hosts: list[str]) -> None:
        self.app = app
        self.allowed_hosts = {host.lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400."""
        if scope["type"] == "http" and "*" not in self.allowed_hosts:
            host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
            if _host_name(host) not in self.allowed_hosts:
                message = f"Host {host!r} is not served here; add it to LLM_PLATFORM_ALLOWED_HOSTS if it should be."
                await platform_error_response(ForeignHost(message), scope["path"])(scope, receive, send)
                return
        await self.app(scope, receive, send)


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


def _host_name(host: str) -> str:
    """Return the host without its port: `[::1]:5000` → `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
