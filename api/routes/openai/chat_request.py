"""The request for chat completions that a request of another API becomes."""

from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from api.errors import Invalid
from api.routes.openai.schemas import ChatRequest


def validated(chat: Mapping[str, Any], names: Mapping[str, str]) -> ChatRequest:
    """Return the request; raises what is wrong with it as an error of the caller's fields, which `names` translates.

    Raises `Invalid` for what concerns several fields, and FastAPI's error of one.
    """
    try:
        return ChatRequest.model_validate(chat)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        if not problems[0]["loc"]:
            raise Invalid(f"{problems[0]['msg'].removeprefix('Value error, ')}.") from error
        named = [
            {**one, "loc": ("body", names.get(str(one["loc"][0]), one["loc"][0]), *one["loc"][1:])} for one in problems
        ]
        body = {names.get(name, name): value for name, value in chat.items()}
        raise RequestValidationError(named, body=body) from error
