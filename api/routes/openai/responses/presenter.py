"""The response object: as it is when a request is taken, and as it is stored."""

from typing import Any

from api.routes.openai.responses.schemas import FunctionTool, ResponseRequest
from registry.tables import StoredResponse

TOOL_FIELDS = set(FunctionTool.model_fields)


def new_response(id: str, created_at: int, body: ResponseRequest) -> dict[str, Any]:
    """Return the response that a request gets, before anything is answered."""
    choice = body.tool_choice or "auto"
    form = body.text.format if body.text is not None else None
    return {
        "id": id,
        "object": "response",
        "created_at": created_at,
        "completed_at": None,
        "status": "queued" if body.background else "in_progress",
        "background": bool(body.background),
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "conversation": {"id": body.conversation.id} if body.conversation is not None else None,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning is not None else None, "summary": None},
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": form.model_dump(by_alias=True) if form is not None else {"type": "text"}},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [tool.model_dump(include=TOOL_FIELDS) for tool in body.tools or []],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
        "metadata": body.metadata or {},
    }


def without_output(response: dict[str, Any]) -> dict[str, Any]:
    """Return the response as it is stored: its output is stored as items."""
    return {name: value for name, value in response.items() if name != "output"}


def stored_response(response: StoredResponse, outputs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a stored response as it is answered."""
    return {**response.body, "status": response.status, "output": outputs}
