"""An ASGI guard over JSON bodies: how deep they nest, how many keys and how long numbers they hold, before parsing.

A parser's stack is the reader's to fill: two megabytes of `[[[[…` are a `RecursionError` somewhere, and whoever copies,
hashes or forwards a body recurses as deep as it does. One look at the bytes before that spares all of them.
"""

import re
from itertools import accumulate

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import Invalid, PlatformError, TooLarge, platform_error_response

MOST_LEVELS = 100
MOST_KEYS = 20_000
MOST_DIGITS = 400
"""A double has at most 309 digits before its point; Python refuses to read an integer of more than 4,300."""

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (MOST_DIGITS + 1))
_BRACKETS = b"[{]}"
_NO_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))
_STEP = {byte: 1 if byte in b"[{" else -1 for byte in _BRACKETS}


class JsonGuard:
    """Reads a body that is not a form, and refuses it, or hands it on as it came."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        """`max_bytes` is the most that is kept in memory, whatever a path's own limit for uploads is."""
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413 or 422."""
        if scope["type"] != "http" or scope["method"] in _BODILESS or _is_form(scope):
            await self.app(scope, receive, send)
            return
        body = await self._read(receive)
        if body is None:  # the client has gone
            return
        if len(body) > self.max_bytes:
            message = f"The request body is larger than {self.max_bytes} bytes, the most that is accepted as JSON."
            await platform_error_response(TooLarge(message), scope["path"])(scope, receive, send)
        elif (error := objection(body)) is not None:
            await platform_error_response(error, scope["path"])(scope, receive, send)
        else:
            await self.app(scope, _replaying(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the body, or so much of it that it is known to be too long; None if the client went away."""
        chunks, size, more = [], 0, True
        while more and size <= self.max_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more = message.get("more_body", False)
        return b"".join(chunks)


def objection(body: bytes) -> PlatformError | None:
    """Return what speaks against parsing this body; None for one that holds no more than a program would send."""
    if b"\0" in body[:4]:
        return Invalid("The request body is not in UTF-8; send JSON in UTF-8.")
    levels, keys = body.count(b"[") + body.count(b"{"), body.count(b":")
    if levels <= MOST_LEVELS and keys <= MOST_KEYS and _LONG_NUMBER.search(body) is None:
        return None
    bare = _STRING.sub(b'""', body)
    depth = next((depth for depth in accumulate(map(_STEP.__getitem__, _brackets(bare))) if depth > MOST_LEVELS), 0)
    if depth:
        return Invalid(f"The request body nests {depth} levels or more, and at most {MOST_LEVELS} are accepted.")
    if (keys := bare.count(b":")) > MOST_KEYS:
        return Invalid(f"The request body holds {keys} keys, and at most {MOST_KEYS} are accepted.")
    if _LONG_NUMBER.search(bare) is not None:
        return Invalid(f"The request body holds a number of over {MOST_DIGITS} digits, the most that are accepted.")
    return None


def _brackets(bare: bytes) -> bytes:
    return bare.translate(None, _NO_BRACKETS)


def _is_form(scope: Scope) -> bool:
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return bool(kind.lower().startswith(b"multipart/form-data"))


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Return what gives the body once, and then whatever comes from the client after it."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
