"""The engine's process: `python -m api.engine_server.server` serves generations on loopback, one for all models.

The port opens at once and torch is imported behind it, so that a supervisor and the API can see it coming.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from api.engine_server.answers import CancellingStream, embedding_answer, full_answer, streamed_answer
from api.engine_server.errors import install_error_handlers
from api.engine_server.event_bridge import EventBridge, Progress
from api.engine_server.schemas import (
    EngineEmbedRequest,
    EngineEmbedResponse,
    EngineGenerateRequest,
    EngineHealth,
    EngineTokenizeRequest,
    EngineTokens,
)
from api.generation.connections import CLIENT_CLOSED_REQUEST, ClientGone, answered, unless_gone
from configs.settings import KEEP_ALIVE_SECONDS, Settings, get_settings
from registry.guards.sites import SiteGuard
from tasks.inference.errors import EngineClosed, InferenceError

if TYPE_CHECKING:
    from api.engine_server.service import TextEngine

IMPORT_SECONDS = 120.0
"""How long a request waits for the libraries to be imported before it fails with 503."""
GRACE_SECONDS = 1
"""How long answers may still run after a signal to stop."""
SPIN_COUNT = "2000"
"""Spins of a waiting OpenMP thread before it sleeps: few, because on a busy machine other threads need the core."""
logger = logging.getLogger("uvicorn.error")


class BackgroundImport:
    """The text engine, made on a thread of its own: importing torch takes seconds, and the port opens first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._finished = asyncio.Event()
        self.engine: TextEngine | None = None
        self.failure: str | None = None

    def start(self) -> None:
        """Begin to import; call it on the event loop."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._import, args=(loop,), name="import-engine", daemon=True).start()

    async def wait(self) -> "TextEngine":
        """Return the engine; raises `EngineClosed` if it takes too long and `InferenceError` if it failed."""
        try:
            await asyncio.wait_for(self._finished.wait(), IMPORT_SECONDS)
        except TimeoutError as error:
            raise EngineClosed from error
        if self.engine is None:
            raise InferenceError(f"the inference engine can't start: {self.failure}")
        return self.engine

    def _import(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            from api.engine_server.service import TextEngine  # this is the import that takes seconds

            self.engine = TextEngine(self._settings)
        except Exception as error:
            logger.exception("the inference engine can't start")
            self.failure = str(error)
        try:
            loop.call_soon_threadsafe(self._finished.set)
        except RuntimeError:  # the process is stopping already, its loop is closed
            logger.info("stopped while importing")


def create_app(settings: Settings) -> FastAPI:
    """Return the engine's application; its engine is built once the application starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        background = app.state.background = BackgroundImport(settings)
        background.start()
        app.state.event_bridge = EventBridge()
        yield
        if background.engine is not None:
            await run_in_threadpool(background.engine.close, 0.5)
        app.state.event_bridge.close()

    app = FastAPI(title="Inference engine", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(SiteGuard, allowed_hosts=["127.0.0.1", "localhost"])
    install_error_handlers(app)
    app.add_api_route("/generate", generate, methods=["POST"], response_model=None)
    app.add_api_route("/embed", embed, methods=["POST"], response_model=None)
    app.add_api_route("/tokenize", tokenize, methods=["POST"])
    app.add_api_route("/health", health, methods=["GET"])
    app.add_api_route("/metrics", metrics, methods=["GET"], response_model=None)
    return app


async def generate(body: EngineGenerateRequest, request: Request) -> Response:
    """Answer a prompt, as one JSON object or as server-sent events; a client that goes away cancels its generation."""
    background: BackgroundImport = request.app.state.background
    # Without streaming the answer is read at its end, unless a stop string may end it.
    progress = Progress(request.app.state.event_bridge, every_token=body.stream or bool(body.stop))
    engine = await background.wait()
    generation = await run_in_threadpool(engine.start, body, progress)
    if body.stream:
        answer, media_type = streamed_answer(generation, progress), "text/event-stream"
    else:
        answer, media_type = full_answer(request, body.prompt or "", generation, progress), "application/json"
    try:
        # Errors while it waits, such as weights that don't load, still get a status of their own.
        first = await unless_gone(request, anext(answer))
    except ClientGone:
        generation.generation.cancel()
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return CancellingStream(first, answer, generation, media_type)


async def embed(body: EngineEmbedRequest, request: Request) -> EngineEmbedResponse | Response:
    """Answer with the mean state of a text; a client that goes away cancels it."""
    background: BackgroundImport = request.app.state.background
    progress = Progress(request.app.state.event_bridge, every_token=False)
    engine = await background.wait()
    embedding = await run_in_threadpool(engine.embed, body, progress)
    return await answered(request, embedding_answer(embedding, progress))


async def tokenize(body: EngineTokenizeRequest, request: Request) -> EngineTokens:
    """Answer with the tokens of a text or a conversation, or the text of tokens."""
    background: BackgroundImport = request.app.state.background
    engine = await background.wait()
    return await run_in_threadpool(engine.tokenize, body)


async def health(request: Request) -> EngineHealth:
    """Return the engine's state; answers from the moment the port is open."""
    background: BackgroundImport = request.app.state.background
    if background.engine is not None:
        return background.engine.health()
    return EngineHealth(status="failed" if background.failure else "loading", error=background.failure)


async def metrics(request: Request) -> Response:
    """Return counters and gauges in Prometheus' format; nothing before the libraries are imported."""
    background: BackgroundImport = request.app.state.background
    content = background.engine.metrics.text() if background.engine is not None else b""
    return Response(content, media_type="text/plain; version=0.0.4")


def main() -> None:
    """Serve until SIGTERM or SIGINT, then end the process within two seconds."""
    # Before torch is imported: its threads would else spin for long at every barrier while a trainer has their cores.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    settings = get_settings()
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host="127.0.0.1",
            port=settings.engine_port,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
    )
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    try:
        server.run()
        status = 0 if server.started else 1
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    logging.shutdown()
    # A thread inside torch would hold up the interpreter's own end, or crash in it.
    os._exit(status)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """End with status 0: uvicorn raises its signals again once it has shut down in order."""
    raise SystemExit(0)


if __name__ == "__main__":
    main()
