"""The API process's way to the engine: an async HTTP client that imports no torch."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import httpx

from api.engine_server.schemas import (
    EngineEmbedRequest,
    EngineEmbedResponse,
    EngineGenerateRequest,
    EngineGenerateResponse,
    EngineHealth,
    EngineTokenizeRequest,
    EngineTokens,
)
from api.generation.sse import data_of

CONNECT_SECONDS = 5.0
HEALTH_SECONDS = 5.0
RETURN_SECONDS = 60.0
"""How long a request that was still in line when the engine died waits for its return."""
RETURN_POLL_SECONDS = 0.3
CONNECTIONS = 512
OWN_CONNECTIONS = 8
"""Connections beside those of answers: to ask for the health and the metrics of an engine whose places are taken."""
MOST_RETURNS = 2
"""A request that kills the engine whenever its weights are loaded must not do so for ever."""


class EngineError(Exception):
    """Base of what can go wrong between the API and the engine."""


class EngineUnavailable(EngineError):
    """The engine can't be reached, went away in the middle, or took too long."""


class EngineRefused(EngineError):
    """The engine answered with an error: HTTP `status`, `code` of `api.engine_server.schemas.ErrorCode`, a sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class EngineClient:
    """Speaks to one engine; close it, or use it as an async context manager. Safe to share between requests."""

    def __init__(self, base_url: str, timeout_seconds: float = 600.0, connections: int = CONNECTIONS) -> None:
        """`timeout_seconds` is the longest silence: a whole answer's time, or the time between two pieces.

        At most `connections` answers are on their way at once; one more waits for its turn.
        """
        # The engine is on this machine: a proxy named in the environment must not see the prompts.
        self._http = httpx.AsyncClient(
            base_url=base_url,
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=connections + OWN_CONNECTIONS),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; generations still running are cancelled by that."""
        await self._http.aclose()

    async def generate(self, request: EngineGenerateRequest) -> EngineGenerateResponse:
        """Return the whole answer; cancelling the awaiting task cancels the generation.

        Raises:
            EngineUnavailable: the engine can't be reached or took too long.
            EngineRefused: it answered with an error.
        """
        async with self._answering("/generate", request.model_dump(mode="json") | {"stream": False}) as response:
            content = await response.aread()
            answer: dict[str, Any] = json.loads(content)
            _raise_if_failed(answer)
            return EngineGenerateResponse.model_validate(answer)

    async def stream(self, request: EngineGenerateRequest) -> AsyncGenerator[dict[str, Any], None]:
        """Yield `{"form": …}` when it begins, `{"text": piece}` as they come, `{"done": True, …}` with `Usage` at last.

        Closing the iterator cancels the generation. Raises what `generate` raises, also in the middle.
        """
        async with self._answering("/generate", request.model_dump(mode="json") | {"stream": True}) as response:
            async for data in data_of(response):
                event: dict[str, Any] = json.loads(data)
                _raise_if_failed(event)
                yield {"form": event["form"]} if "running" in event else event
                if event.get("done"):
                    return
        raise EngineUnavailable("the inference engine went away in the middle of an answer: try again")

    async def embed(self, request: EngineEmbedRequest) -> EngineEmbedResponse:
        """Return the mean state of a text; cancelling the awaiting task cancels it. Raises what `generate` raises."""
        async with self._answering("/embed", request.model_dump(mode="json")) as response:
            return EngineEmbedResponse.model_validate_json(await response.aread())

    async def tokenize(self, request: EngineTokenizeRequest) -> EngineTokens:
        """Return the tokens of a text or a conversation, or the text of tokens. Raises what `generate` raises."""
        async with self._answering("/tokenize", request.model_dump(mode="json")) as response:
            return EngineTokens.model_validate_json(await response.aread())

    @asynccontextmanager
    async def _answering(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[httpx.Response]:
        """Yield the response of a request that waits in line no longer; raises what `generate` raises.

        A request that was still waiting when the engine died loses nothing: it is sent again when the engine is back.
        """
        response = None
        try:
            for _ in range(1 + MOST_RETURNS):
                try:
                    response = await self._http.send(self._http.build_request("POST", path, json=body), stream=True)
                    break
                except (httpx.RemoteProtocolError, httpx.ReadError) as error:
                    if not await self._comes_back():
                        raise _unavailable(error) from error
            if response is None:
                raise EngineUnavailable("the inference engine died again and again before it answered: try again later")
            if response.status_code != httpx.codes.OK:
                _raise_for_error(response.status_code, await response.aread())
            yield response
        except httpx.TransportError as error:
            raise _unavailable(error) from error
        finally:
            if response is not None:
                await response.aclose()

    async def _comes_back(self) -> bool:
        """Return whether the engine, which has just died, is there again within the time that its start may take."""
        deadline = time.monotonic() + RETURN_SECONDS
        while time.monotonic() < deadline:
            try:
                if (await self.health()).status == "ok":
                    return True
            except EngineError:
                pass
            await asyncio.sleep(RETURN_POLL_SECONDS)
        return False

    async def metrics(self) -> str:
        """Return the engine's metrics in Prometheus' format; raises what `generate` raises."""
        try:
            response = await self._http.get("/metrics", timeout=HEALTH_SECONDS)
        except httpx.TransportError as error:
            raise _unavailable(error) from error
        _raise_for_error(response.status_code, response.content)
        return response.text

    async def health(self) -> EngineHealth:
        """Return the engine's state; raises what `generate` raises."""
        try:
            response = await self._http.get("/health", timeout=HEALTH_SECONDS)
        except httpx.TransportError as error:
            raise _unavailable(error) from error
        _raise_for_error(response.status_code, response.content)
        return EngineHealth.model_validate_json(response.content)


def _unavailable(error: httpx.TransportError) -> EngineUnavailable:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return EngineUnavailable("the inference engine is not running: start it, or try again in a moment")
    if isinstance(error, httpx.TimeoutException):
        return EngineUnavailable("the inference engine took too long to answer: ask for fewer tokens or try again")
    return EngineUnavailable("the inference engine went away in the middle of an answer: try again")


def _raise_if_failed(answer: Mapping[str, Any]) -> None:
    """Raise what an answer, whose status was out before it failed, says of its failure."""
    if "error" in answer:
        raise EngineRefused(500, str(answer.get("code", "failed")), str(answer["error"]))


def _raise_for_error(status: int, body: bytes) -> None:
    if status == 200:
        return
    try:
        answer = json.loads(body)
        message, code = str(answer["error"]), str(answer.get("code", "invalid"))
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code = f"the inference engine answered with status {status}", "invalid"
    raise EngineRefused(status, code, message)
