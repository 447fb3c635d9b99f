"""uvicorn's HTTP protocol, for two kinds of clients that it does not serve: HTTP/1.0, and those that half-close.

A client may close its side of the connection once it has sent its request, and still read the answer. One that has
gone altogether looks the same, until something is sent to it: its machine then resets the connection. So the first
bytes of the answer, which every answer has, are sent at once, and the connection is looked at until the answer comes.
"""

import asyncio
import socket
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

BEGINNING = b"HTTP/1.1 "
"""What uvicorn begins every answer with."""
LOOK_SECONDS = 0.2
TCP_CLOSE = 7
"""Linux's `tcpi_state` of a connection that has been reset."""
ENDLESS = 1 << 62


class PatientProtocol(HttpToolsProtocol):
    """Answers HTTP/1.0 without chunks, and clients that have closed their side but not gone."""

    def on_headers_complete(self) -> None:
        """Make the request's cycle (httptools' callback)."""
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0" and self.cycle is not None and not self.cycle.response_started:
            # An answer of unknown length ends with the connection.
            self.cycle = _until_closed(self.cycle)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether the connection is kept for an answer that the client may still read."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or self.pipeline or not _can_be_looked_at(self.transport):
            return False
        cycle.keep_alive = False
        if not cycle.response_started:
            self.transport.write(BEGINNING)
            cycle.transport = cast(asyncio.Transport, _Begun(self.transport))
        self._look()
        return True

    def _look(self) -> None:
        if self.transport.is_closing() or self.cycle.response_complete:
            return
        if _state_of(self.transport) == TCP_CLOSE:
            self.transport.abort()
        else:
            self.loop.call_later(LOOK_SECONDS, self._look)


class _Begun:
    """A transport to which an answer's beginning has been written already."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._skip = len(BEGINNING)

    def write(self, data: bytes) -> None:
        """Write the rest of an answer, which comes with its beginning."""
        self._transport.write(data[self._skip :])
        self._skip = 0

    def is_closing(self) -> bool:
        """Return whether the connection is being closed."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection once everything is written."""
        self._transport.close()


def _can_be_looked_at(transport: asyncio.Transport) -> bool:
    """Return whether the system tells the state of this connection: Linux does, of TCP."""
    found = transport.get_extra_info("socket")
    return (
        hasattr(socket, "TCP_INFO")
        and found is not None
        and found.family in (socket.AF_INET, socket.AF_INET6)
        and transport.get_extra_info("sslcontext") is None
    )


def _state_of(transport: asyncio.Transport) -> int:
    found = transport.get_extra_info("socket")
    return int(found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])


def _until_closed(cycle: Any) -> Any:
    """Have a cycle send an answer without a Content-Length as it is, until the connection closes."""
    send = cycle.send

    async def unchunked(message: Any) -> None:
        if message["type"] == "http.response.start" and not any(
            name.lower() == b"content-length" for name, _ in message.get("headers", [])
        ):
            cycle.chunked_encoding, cycle.expected_content_length = False, ENDLESS
        elif (
            message["type"] == "http.response.body"
            and not message.get("more_body", False)
            and cycle.expected_content_length > ENDLESS // 2
        ):
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    cycle.send = unchunked
    return cycle
