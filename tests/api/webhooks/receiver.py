"""A program that receives webhooks, over real HTTP, and answers as it is told."""

import queue
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Any

import openai

PATIENCE_SECONDS = 30
ALL = ["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes


class Receiver:
    """Listens on a port of the loopback for as long as it is open; `answers` are given in order, and then 200."""

    def __init__(
        self,
        *answers: int,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        before_answering: Callable[[], Any] = lambda: None,
        send_body: Callable[[BufferedIOBase], Any] = lambda _body: None,
    ) -> None:
        self.received: queue.Queue[Received] = queue.Queue()
        self._answers = list(answers)
        self._before_answering = before_answering
        self._send_body = send_body
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"{'http' if tls is None else 'https'}://localhost:{self.port}/hook?key=1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> "Receiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE_SECONDS)

    def next(self) -> Received:
        """Return the next request; `queue.Empty` if none comes."""
        return self.received.get(timeout=PATIENCE_SECONDS)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = receiver._answers.pop(0) if receiver._answers else 200
                receiver.received.put(Received(self.path, headers, body))
                receiver._before_answering()
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("location", receiver.url.replace("/hook", "/elsewhere"))
                self.end_headers()
                receiver._send_body(self.wfile)

            def log_message(self, *_: object) -> None:
                """Tests print nothing."""

        return Handler


def until(condition: Callable[[], Any]) -> Any:
    """Return what `condition` returns, once that is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
    return found


def unwrapped(received: Received, secret: str) -> Any:
    """Return the event, verified and parsed as its users do it."""
    client = openai.OpenAI(api_key="none", webhook_secret=secret)
    return client.webhooks.unwrap(received.body, received.headers)


def deliveries(client, endpoint) -> list[dict[str, Any]]:
    """Return what the platform says of the endpoint's messages, newest first."""
    return client.get(f"/v1/webhook_endpoints/{endpoint.id}/deliveries").json()["data"]


def settled(client, endpoint) -> dict[str, Any]:
    """Return the only message, once it does not wait any more."""
    until(lambda: [one["status"] for one in deliveries(client, endpoint)] not in ([], ["waiting"]))
    (delivery,) = deliveries(client, endpoint)
    return delivery
