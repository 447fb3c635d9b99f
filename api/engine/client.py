"""The API process's way to the engine: an async HTTP client that imports no torch."""

import json
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import httpx

from api.engine.schemas import EngineGenerateRequest, EngineGenerateResponse, EngineHealth

CONNECT_SECONDS = 5.0
HEALTH_SECONDS = 5.0


class EngineError(Exception):
    """Base of what can go wrong between the API and the engine."""


class EngineUnavailable(EngineError):
    """The engine can't be reached, went away in the middle, or took too long."""


class EngineRefused(EngineError):
    """The engine answered with an error: HTTP `status`, `code` of `api.engine.schemas.ErrorCode`, a sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class EngineClient:
    """Speaks to one engine; close it, or use it as an async context manager. Safe to share between requests."""

    def __init__(self, base_url: str, timeout_seconds: float = 600.0) -> None:
        """`timeout_seconds` is the longest silence: a whole answer's time, or the time between two pieces."""
        # The engine is on this machine: a proxy named in the environment must not see the prompts.
        self._http = httpx.AsyncClient(
            base_url=base_url,
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None),
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
        body = request.model_dump(mode="json") | {"stream": False}
        try:
            response = await self._http.post("/generate", json=body)
        except httpx.TransportError as error:
            raise _unavailable(error) from error
        _raise_for_error(response.status_code, response.content)
        return EngineGenerateResponse.model_validate_json(response.content)

    async def stream(self, request: EngineGenerateRequest) -> AsyncIterator[dict[str, Any]]:
        """Yield `{"text": piece}` as they come and at last `{"done": True, …}` with the fields of `Usage`.

        Closing the iterator cancels the generation. Raises what `generate` raises, also in the middle.
        """
        body = request.model_dump(mode="json") | {"stream": True}
        try:
            async with self._http.stream("POST", "/generate", json=body) as response:
                if response.status_code != 200:
                    _raise_for_error(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    if not line.startswith("data:"):
                        continue
                    event: dict[str, Any] = json.loads(line.removeprefix("data:"))
                    if "error" in event:
                        raise EngineRefused(503, str(event.get("code", "weights")), str(event["error"]))
                    yield event
                    if event.get("done"):
                        return
        except httpx.TransportError as error:
            raise _unavailable(error) from error
        raise EngineUnavailable("the inference engine went away in the middle of an answer: try again")

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


def _raise_for_error(status: int, body: bytes) -> None:
    if status == 200:
        return
    try:
        answer = json.loads(body)
        message, code = str(answer["error"]), str(answer.get("code", "invalid"))
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code = f"the inference engine answered with status {status}", "invalid"
    raise EngineRefused(status, code, message)
