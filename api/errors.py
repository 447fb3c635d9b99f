"""The one place where an error becomes a status: every failure leaves as `{"error": "one sentence"}`.

Under `/v1` the same failure leaves in OpenAI's shape, which its SDK turns into its own exceptions.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api.anthropic_errors import MESSAGES_PATH, anthropic_response
from api.field_errors import by_field, sentence_of, shown
from api.generation.engine_client import EngineRefused, EngineUnavailable
from registry.database import AWAY
from tasks.atomic_files import no_space_left

logger = logging.getLogger(__name__)


class PlatformError(Exception):
    """An error with a sentence for the client: what was wrong and what to do."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class NotFound(PlatformError):
    """An id or path that does not exist."""


class Conflict(PlatformError):
    """The state of the thing forbids what was asked."""


class Invalid(PlatformError):
    """A field is wrong in a way that only the server could see."""


class PreviousResponseNotFound(PlatformError):
    """The response that a request goes on from is not there; OpenAI calls that a bad request."""


class TooLittleMemory(PlatformError):
    """A training job can't fit in memory; the details say what it needs, what there is and what would fit."""


class DatasetInvalid(PlatformError):
    """An uploaded data set can't be used; the details are the report of its checks."""


class TooLarge(PlatformError):
    """The request body is larger than the platform accepts."""


class ForeignHost(PlatformError):
    """The request carries a host name that is not ours."""


class ForeignOrigin(PlatformError):
    """A page of another site asked for a change."""


class Unauthorized(PlatformError):
    """The request carries no key, or one that is not known."""


class Forbidden(PlatformError):
    """The request's key may not do this; the details say which scope it has and which is needed."""


class Busy(PlatformError):
    """More is being done than the platform takes on at a time; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: int = 5) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DiskFull(PlatformError):
    """The disk has no room for what was asked; the details say how much is free and how much is needed."""


class EvaluationFailed(PlatformError):
    """An evaluation that was waited for ended without numbers."""


class ServiceDown(PlatformError):
    """A service of the platform does not answer; `part` names it, as clients read it."""

    def __init__(self, service: str, message: str, retry_after: int = 5) -> None:
        super().__init__(message, part=service)
        self.retry_after = retry_after


class ErrorResponse(BaseModel):
    """Shape of every error."""

    error: str = Field(description="What was wrong and what to do, in one sentence")
    code: str | None = Field(None, description="Short stable name of the kind of error")
    details: dict[str, Any] | None = None


STATUS_OF_ERROR: Mapping[type[PlatformError], tuple[int, str]] = {
    ForeignHost: (400, "foreign_host"),
    PreviousResponseNotFound: (400, "previous_response_not_found"),
    Unauthorized: (401, "unauthorized"),
    Forbidden: (403, "forbidden"),
    ForeignOrigin: (403, "foreign_origin"),
    NotFound: (404, "not_found"),
    Conflict: (409, "conflict"),
    TooLarge: (413, "too_large"),
    Invalid: (422, "invalid"),
    TooLittleMemory: (422, "too_little_memory"),
    DatasetInvalid: (422, "invalid_dataset"),
    Busy: (429, "busy"),
    EvaluationFailed: (500, "evaluation_failed"),
    ServiceDown: (503, "part_down"),
    DiskFull: (507, "disk_full"),
}
MOST_PROBLEMS = 20
"""How many of a request's problems an answer names."""
NO_SPACE_LEFT = "The disk became full while this was being written, and nothing of it was kept; free some space first."
OPENAI_PREFIX = "/v1/"
BESIDE_OPENAIS = ("/tokenize", "/detokenize")
"""Paths that servers of OpenAI's protocol have beside it."""
OPENAIS = (OPENAI_PREFIX, *BESIDE_OPENAIS)
"""What paths begin with whose errors are in OpenAI's shape."""
OPENAI_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
OPENAI_CODES = {"prompt_too_long": "context_length_exceeded"}
"""Where OpenAI has a code of its own for what ours says."""
STATUS_OF_ENGINE_CODE = {
    "prompt_too_long": 422,
    "invalid": 422,
    "busy": 429,
    "closed": 503,
    "timeout": 503,
    "weights": 503,
    "failed": 500,
}

DOCUMENTED_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The body is not JSON"},
    403: {"model": ErrorResponse, "description": "A page of another site asks, or the key's scope is not enough"},
    404: {"model": ErrorResponse, "description": "Unknown id or path"},
    409: {"model": ErrorResponse, "description": "The state forbids it"},
    413: {"model": ErrorResponse, "description": "The request is too large"},
    415: {"model": ErrorResponse, "description": "The body is of another type than JSON"},
    422: {"model": ErrorResponse, "description": "A field is wrong"},
    429: {"model": ErrorResponse, "description": "Too many requests wait"},
    500: {"model": ErrorResponse, "description": "The platform failed"},
    503: {"model": ErrorResponse, "description": "A service of the platform is down"},
    507: {"model": ErrorResponse, "description": "The disk has no room for new work"},
}
KEY_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorResponse, "description": "No key, or an unknown one"},
}


class OpenAIError(BaseModel):
    """What is wrong, as OpenAI's SDK reads it."""

    message: str
    type: str
    param: str | None = Field(description="The field that is wrong, where it is one")
    code: str | None


class OpenAIErrorResponse(BaseModel):
    """Shape of every error under `/v1`."""

    error: OpenAIError


def in_openais_shape(errors: Mapping[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """Return documented errors as they are under `/v1`."""
    return {status: {**said, "model": OpenAIErrorResponse} for status, said in errors.items()}


@dataclass(frozen=True, slots=True)
class Problem:
    """What goes wrong with a request, before it has a shape."""

    status: int
    message: str
    code: str
    details: dict[str, Any] | None = None
    headers: dict[str, str] | None = None
    param: str | None = None
    """The field that is wrong, where it is one."""

    def response(self, path: str) -> JSONResponse:
        """Return the answer in the shape that clients of this path expect."""
        if path == MESSAGES_PATH or path.startswith(f"{MESSAGES_PATH}/"):
            return anthropic_response(self.status, _printable(self.message), self.headers)
        if path.startswith(OPENAIS):
            return self._in_openais_shape()
        body: dict[str, Any] = {"error": _printable(self.message), "code": self.code}
        if self.details:
            body["details"] = self.details
        return JSONResponse(body, status_code=self.status, headers=self.headers)

    def _in_openais_shape(self) -> JSONResponse:
        # OpenAI knows no 422: a wrong field is a bad request.
        status = 400 if self.status == 422 else self.status
        kind = OPENAI_KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
        code = OPENAI_CODES.get(self.code, self.code)
        error = {"message": _printable(self.message), "type": kind, "param": self.param, "code": code}
        return JSONResponse({"error": error | (self.details or {})}, status_code=status, headers=self.headers)


def install_error_handlers(app: FastAPI) -> None:
    """Make every layer's failures leave in the documented shape."""
    app.add_exception_handler(PlatformError, _on_platform_error)
    app.add_exception_handler(EngineUnavailable, _on_engine_error)
    app.add_exception_handler(EngineRefused, _on_engine_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(SQLAlchemyError, _on_database_error)
    app.add_exception_handler(Exception, _on_unexpected)


def platform_error_response(error: PlatformError, path: str) -> JSONResponse:
    """Return the answer for one of our own errors."""
    return _problem_of(error).response(path)


def _problem_of(error: PlatformError) -> Problem:
    status, code = STATUS_OF_ERROR[type(error)]
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, ServiceDown | Busy) else None
    if isinstance(error, Unauthorized):
        headers = {"WWW-Authenticate": "Bearer"}
    return Problem(status, error.message, code, error.details, headers)


async def _on_platform_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PlatformError)
    return platform_error_response(error, request.url.path)


async def _on_engine_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EngineUnavailable | EngineRefused)
    return engine_problem(error).response(request.url.path)


def engine_problem(error: EngineUnavailable | EngineRefused) -> Problem:
    """Return what an error of the inference engine means to a client."""
    if isinstance(error, EngineUnavailable):
        sentence = str(error)
        return _problem_of(ServiceDown("engine", f"{sentence[0].upper()}{sentence[1:]}."))
    status = STATUS_OF_ENGINE_CODE[error.code]
    return Problem(status, error.message, error.code, headers={"Retry-After": "5"} if status in (429, 503) else None)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    if error.errors()[0]["loc"][0] == "path" and request.url.path in request.app.openapi()["paths"]:
        return _not_allowed(request).response(request.url.path)  # the path has another meaning, for other methods
    kind = request.headers.get("content-type")
    if error.errors()[0]["loc"] == ("body",) and isinstance(error.body, bytes | str) and not _is_json(kind):
        return _problem_of_content_type(kind).response(request.url.path)
    return _problem_of_validation(error).response(request.url.path)


def _is_json(content_type: str | None) -> bool:
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _problem_of_content_type(content_type: str | None) -> Problem:
    said = "has no Content-Type" if content_type is None else f"has the Content-Type {shown(content_type)}"
    return Problem(415, f"The request {said}; application/json is accepted.", "unsupported_media_type")


def _problem_of_validation(error: RequestValidationError) -> Problem:
    problems = error.errors()
    first = problems[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "syntax error")
        return Problem(400, f"The request body is not valid JSON: {reason}.", "malformed_json")
    if first["loc"][0] == "path":
        message = f"There is nothing with the id {shown(first['input'])}; ids are integers from 1."
        return Problem(404, message, "not_found")
    found = by_field(problems, error.body)
    sentences = [sentence_of(name, alternatives) for name, alternatives in islice(found.items(), MOST_PROBLEMS)]
    if len(found) > MOST_PROBLEMS:
        sentences.append(f"There are {len(found) - MOST_PROBLEMS} further problems.")
    param = next(iter(found)) or first.get("ctx", {}).get("param")
    return Problem(422, " ".join(sentences), "invalid", param=param)


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _problem_of_http(request, error).response(request.url.path)


def _problem_of_http(request: Request, error: HTTPException) -> Problem:
    if error.status_code == 404:
        return Problem(404, f"There is no {request.url.path}; see /api/docs for what there is.", "not_found")
    if error.status_code == 405:
        return _not_allowed(request)
    if error.status_code == 400:
        return Problem(400, "The request body can't be read as JSON.", "malformed_json")
    return Problem(error.status_code, str(error.detail), "error", headers=dict(error.headers or {}))


async def _on_database_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SQLAlchemyError)
    problem = _problem_of_database(error)
    if problem.status >= 500:
        logger.error("database error in %s %s", request.method, request.url.path, exc_info=error)
    return problem.response(request.url.path)


def _problem_of_database(error: SQLAlchemyError) -> Problem:
    """Return what an error of the database means to a client: most are not that it is away."""
    if isinstance(error, IntegrityError):
        message = "What the request names or makes was deleted or made by another request at this moment; look again."
        return _problem_of(Conflict(message))
    if no_space_left(error):
        return _problem_of(DiskFull(NO_SPACE_LEFT))
    if isinstance(error, DataError):
        message = "A value is one that the database can't store: a number that is too large, or a text with NUL in it."
        return _problem_of(Invalid(message))
    if isinstance(error, AWAY):
        return _problem_of(ServiceDown("database", "The database does not answer; try again in a few seconds."))
    return Problem(500, "The platform asked its database in a wrong way; its log (api.log) says how.", "internal")


async def _on_unexpected(request: Request, error: Exception) -> JSONResponse:
    logger.error("unexpected error in %s %s", request.method, request.url.path, exc_info=error)
    if no_space_left(error):
        return platform_error_response(DiskFull(NO_SPACE_LEFT), request.url.path)
    message = "The platform failed to answer; its log (api.log) says why."
    return Problem(500, message, "internal").response(request.url.path)


def _not_allowed(request: Request) -> Problem:
    allowed = ", ".join(_methods_of(request))
    message = f"{request.url.path} does not accept {request.method}; it accepts {allowed}."
    return Problem(405, message, "method_not_allowed", headers={"Allow": allowed})


def _methods_of(request: Request) -> list[str]:
    """Return the methods that the request's path accepts; each is a route of its own."""
    # A path without parameters may have the shape of one with: `/evaluations/compare` is no `/evaluations/{id}`.
    if (exact := request.app.openapi()["paths"].get(request.url.path)) is not None:
        return sorted(method.upper() for method in exact)
    accepted = []
    for method in ("DELETE", "GET", "PATCH", "POST", "PUT"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            accepted.append(method)
    return accepted


def _printable(text: str) -> str:
    # A lone surrogate, legal in JSON's escapes, can't be encoded in an answer.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
