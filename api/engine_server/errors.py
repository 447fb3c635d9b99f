"""The engine's one table from error to status: every failure leaves as `{"error": sentence, "code": …}`."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from api.engine_server.paths import PathRefused
from api.engine_server.schemas import ErrorCode
from tasks.inference.errors import (
    EmptyPrompt,
    EngineBusy,
    EngineClosed,
    InferenceError,
    InputTooLong,
    InvalidRequest,
    PromptTooLong,
    RequestTimedOut,
    RequestTooLarge,
)
from tasks.models.errors import WeightsError

STATUS: dict[type[Exception], tuple[int, ErrorCode]] = {
    PromptTooLong: (422, "prompt_too_long"),
    InputTooLong: (422, "prompt_too_long"),
    RequestTooLarge: (422, "invalid"),
    EmptyPrompt: (422, "invalid"),
    PathRefused: (422, "invalid"),
    InvalidRequest: (422, "invalid"),
    EngineBusy: (429, "busy"),
    EngineClosed: (503, "closed"),
    RequestTimedOut: (503, "timeout"),
    WeightsError: (503, "weights"),
    InferenceError: (500, "failed"),
}


def status_and_body(error: Exception) -> tuple[int, dict[str, str]]:
    """Return the HTTP status and the JSON body for `error`; one that is not in the table stays unexplained."""
    for kind, (status, code) in STATUS.items():
        if isinstance(error, kind):
            return status, {"error": str(error), "code": code}
    return 500, {"error": "the inference engine failed: its log has the reason", "code": "failed"}


def install_error_handlers(app: FastAPI) -> None:
    """Make every error of `app` leave in the engine's own shape."""
    for kind in STATUS:
        app.add_exception_handler(kind, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _known)


async def _known(_request: Request, error: Exception) -> JSONResponse:
    status, body = status_and_body(error)
    return JSONResponse(body, status)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    sentences = []
    for problem in problems:
        field = ".".join(str(part) for part in problem["loc"][1:]) or "body"
        sentences.append(f"{field}: {problem['msg']}")
    return JSONResponse({"error": "; ".join(sentences) or "the request is wrong", "code": "invalid"}, 422)


async def _http(_request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "the inference engine failed"
    return JSONResponse({"error": str(detail), "code": "invalid"}, status)
