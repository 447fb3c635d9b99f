"""Clients of HTTP/1.0, clients that half-close, and clients that go away, over real sockets."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from api.generation.connections import ClientGone, unless_gone
from api.http_protocol import BEGINNING, PatientProtocol


class Served:
    """An app that answers after a while, and notes who went away."""

    def __init__(self) -> None:
        self.gone: list[str] = []
        self.begun = threading.Event()
        self.app = FastAPI()
        self.app.add_api_route("/slow", self.slow, methods=["POST"], response_model=None)
        self.app.add_api_route("/pieces", self.pieces, methods=["POST"], response_model=None)

    async def slow(self, request: Request, seconds: float = 1.0) -> JSONResponse:
        body = await request.body()
        self.begun.set()
        try:
            await unless_gone(request, asyncio.sleep(seconds))
        except ClientGone:
            self.gone.append("slow")
        return JSONResponse({"read": len(body)})

    async def pieces(self, count: int = 3) -> StreamingResponse:
        async def all_of() -> AsyncIterator[bytes]:
            try:
                for number in range(count):
                    self.begun.set()
                    yield f"piece {number}\n".encode()
                    await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                self.gone.append("pieces")
                raise

        return StreamingResponse(all_of())


@contextmanager
def serving(served: Served, loop: str) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(served.app, http=PatientProtocol, loop=loop, log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def running(request):
    served = Served()
    with serving(served, request.param) as port:
        yield served, port


@pytest.fixture
def served(running):
    running[0].gone.clear()
    running[0].begun.clear()
    return running[0]


@pytest.fixture
def port(running):
    return running[1]


def connect(port: int, path: str, version: str = "1.1", body: bytes = b"{}") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.settimeout(60)
    head = f"POST {path} HTTP/{version}\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def read_all(client: socket.socket) -> bytes:
    pieces = []
    while piece := client.recv(65536):
        pieces.append(piece)
    client.close()
    return b"".join(pieces)


@pytest.mark.parametrize("path", ["/slow?seconds=0.1", "/pieces"])
def test_an_old_client_gets_no_chunks(served, port, path):
    answer = read_all(connect(port, path, version="1.0"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body == (b'{"read":2}' if "slow" in path else b"piece 0\npiece 1\npiece 2\n")


@pytest.mark.parametrize(("path", "body"), [("/slow", b'{"read":2}'), ("/pieces", b"piece 2\n")])
def test_a_client_that_half_closes_gets_its_answer(served, port, path, body):
    client = connect(port, path)
    client.shutdown(socket.SHUT_WR)
    answer = read_all(client)
    assert answer.startswith(BEGINNING + b"200 OK\r\n")
    assert answer.count(BEGINNING) == 1
    assert body in answer
    assert served.gone == []


@pytest.mark.parametrize("path", ["/slow?seconds=60", "/pieces?count=600"])
@pytest.mark.parametrize("way", ["close", "half first", "reset"])
def test_a_client_that_goes_away_is_noticed_soon(served, port, path, way):
    client = connect(port, path)
    assert served.begun.wait(20)
    if way == "half first":
        client.shutdown(socket.SHUT_WR)
        time.sleep(0.5)
    if way == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    deadline = time.monotonic() + 20
    while not served.gone:
        assert time.monotonic() < deadline, "nobody noticed"
        time.sleep(0.02)


def test_a_connection_is_kept_for_the_next_request(served, port):
    answer = b'{"read":2}'
    with connect(port, "/slow?seconds=0") as client, client.makefile("rb") as reader:
        for _ in range(2):
            lines = iter(reader.readline, b"\r\n")
            assert next(lines) == b"HTTP/1.1 200 OK\r\n"
            assert b"content-length: 10\r\n" in list(lines)
            assert reader.read(len(answer)) == answer
            client.sendall(b"POST /slow?seconds=0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
        client.shutdown(socket.SHUT_WR)
        assert reader.read().endswith(answer)
