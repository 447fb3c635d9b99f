"""The shape of errors of Anthropic's Messages API, which its SDK turns into its own exceptions."""

from collections.abc import Mapping
from typing import Any, Literal
from uuid import uuid4

from fastapi.responses import JSONResponse
from pydantic import BaseModel

MESSAGES_PATH = "/v1/messages"
"""Errors of this path, and of what lies under it, are in this shape."""
KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class AnthropicError(BaseModel):
    """What is wrong, as Anthropic's SDK reads it."""

    type: str
    message: str


class AnthropicErrorResponse(BaseModel):
    """Shape of every error of `/v1/messages`."""

    type: Literal["error"] = "error"
    error: AnthropicError
    request_id: str


def in_anthropics_shape(errors: Mapping[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """Return documented errors as they are of `/v1/messages`."""
    return {status: {**said, "model": AnthropicErrorResponse} for status, said in errors.items()}


def anthropic_response(status: int, message: str, headers: Mapping[str, str] | None) -> JSONResponse:
    """Return the answer for an error; as for OpenAI, a wrong field is a bad request."""
    status = 400 if status == 422 else status
    kind = KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    request_id = f"req_{uuid4().hex}"
    body = AnthropicErrorResponse(error=AnthropicError(type=kind, message=message), request_id=request_id)
    return JSONResponse(body.model_dump(), status_code=status, headers={"request-id": request_id} | dict(headers or {}))
