"""Server-sent events as they are written, and as others write them."""

import asyncio
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest

from api.generation.sse import data_of, event


def test_the_bytes_that_clients_have_always_seen():
    assert event({"text": "ü\n\u2028"}) == b'data: {"text": "\\u00fc\\n\\u2028"}\n\n'
    assert event({"a": 1}, "done") == b'event: done\ndata: {"a": 1}\n\n'


@pytest.fixture
def serve():
    """A real server that sends the given pieces, each in a chunk of its own."""
    servers = []

    def start(pieces):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in [*pieces, b""]:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def read(url):
    async def work():
        async with httpx.AsyncClient(trust_env=False) as http, http.stream("GET", url) as response:
            return [data async for data in data_of(response)]

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("pieces", "found"),
    [
        ([b"data: a\n\ndata: b\n\n"], ["a", "b"]),
        ([b"da", b"ta: a", b"\n", b"\nda", b"ta: b\n\n"], ["a", "b"]),
        ([b"data: a\r\n\r\ndata: b\r\n\r\n"], ["a", "b"]),
        ([b"data: a\r", b"\n\r", b"\ndata: b\r\n\r\n"], ["a", "b"]),
        ([b"data: a\r\rdata: b\r\r"], ["a", "b"]),
        ([b"data:a\n\ndata:  b\n\n"], ["a", " b"]),
        ([b": a comment\n\nevent: x\nid: 1\ndata: a\n\nretry: 3\n\n"], ["a"]),
        ([b"data: {\ndata: }\n\n"], ["{\n}"]),
        ([b"data: a\n\ndata: the end of it"], ["a", "the end of it"]),
        (["data: ü\u2028x\u0085y\x0bz\n\n".encode()], ["ü\u2028x\u0085y\x0bz"]),
        (["data: ü\n\n".encode()[:7], "data: ü\n\n".encode()[7:]], ["ü"]),
    ],
)
def test_events_are_read_as_the_standard_has_them(serve, pieces, found):
    assert read(serve(pieces)) == found


def test_what_is_written_is_read(serve):
    values = [{"text": text} for text in ("a\nb", "\r\n", "\u2028", "data: x\n\n", "")]
    assert [json.loads(data) for data in read(serve([event(value) for value in values]))] == values
