"""From a request of the Messages API to one for chat completions."""

import json
from typing import Any

from api.routes.anthropic.schemas import (
    CountRequest,
    InputMessage,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    ToolResult,
    ToolUse,
)
from api.routes.openai.chat_request import validated
from api.routes.openai.schemas import ChatRequest

FIELDS = {"max_completion_tokens": "max_tokens", "stop": "stop_sequences"}
"""What fields of chat completions are called here."""
CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_request(body: CountRequest) -> ChatRequest:
    """Return the request for chat completions; raises FastAPI's error of fields that are wrong."""
    messages = [] if body.system is None else [{"role": "system", "content": _joined(body.system)}]
    for message in body.messages:
        messages += _turns(message)
    chat: dict[str, Any] = {"model": body.model, "messages": messages, **_tools(body)}
    if body.messages[-1].role == "assistant":
        # The client has begun the answer, and gets the rest.
        chat |= {"add_generation_prompt": False, "continue_final_message": True}
    if body.thinking is not None:
        chat["chat_template_kwargs"] = {"enable_thinking": body.thinking.type != "disabled"}
    if isinstance(body, MessagesRequest):
        chat |= {
            "max_completion_tokens": body.max_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_k": body.top_k,
            "stop": body.stop_sequences or None,
        }
    return validated({name: value for name, value in chat.items() if value is not None}, FIELDS)


def _turns(message: InputMessage) -> list[dict[str, Any]]:
    """Return the turns that a message makes: results of calls are turns of their own, before the text."""
    results = [
        {"role": "tool", "tool_call_id": block.tool_use_id, "content": _joined(block.content or [])}
        for block in message.content
        if isinstance(block, ToolResult)
    ]
    text = "".join(block.text for block in message.content if isinstance(block, TextBlock))
    thoughts = "".join(block.thinking for block in message.content if isinstance(block, ThinkingBlock))
    calls = [_call(block) for block in message.content if isinstance(block, ToolUse)]
    turn: dict[str, Any] = {"role": message.role, "content": text}
    turn |= ({"tool_calls": calls} if calls else {}) | ({"reasoning_content": thoughts} if thoughts else {})
    return [*results, turn] if text or calls or not results else results


def _call(block: ToolUse) -> dict[str, Any]:
    arguments = json.dumps(block.input, ensure_ascii=False)
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _joined(blocks: list[TextBlock]) -> str:
    return "\n".join(block.text for block in blocks)


def _tools(body: CountRequest) -> dict[str, Any]:
    if not body.tools:
        return {}
    choice = body.tool_choice
    chosen: Any = None
    if choice is not None:
        named = {"type": "function", "function": {"name": choice.name}}
        chosen = named if choice.type == "tool" else CHOICES[choice.type]
    parallel = False if choice is not None and choice.disable_parallel_tool_use else None
    tools = [tool.as_chat() for tool in body.tools]
    return {"tools": tools, "tool_choice": chosen, "parallel_tool_calls": parallel}
