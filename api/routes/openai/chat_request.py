"""The request for chat completions that a request of another API becomes, and how long its prompt is."""

from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from api.engine_server.schemas import EngineTokenizeRequest
from api.errors import Invalid
from api.platform import Platform
from api.routes.openai.chat import ask_chat
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


async def prompt_tokens(platform: Platform, chat: ChatRequest) -> int:
    """Return how many tokens the prompt has; raises what answering it would before the engine begins."""
    (request,) = (await ask_chat(platform, "count", chat)).requests
    shared = set(EngineTokenizeRequest.model_fields) & set(type(request).model_fields)
    found = await platform.generations.tokens(EngineTokenizeRequest(**request.model_dump(include=shared)))
    return len(found.ids)
