"""Items as they are stored and shown, and the chat that they make."""

import re
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from api.routes.openai.responses.input_items import (
    FunctionCall,
    FunctionCallOutput,
    Message,
    Reasoning,
    Refusal,
    Text,
)

PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_OWN_ID = re.compile(r"[a-z]{1,10}_[A-Za-z0-9]{1,52}")
"""Ids that are taken over from a client: those of items that came from here."""


def new_id(prefix: str) -> str:
    """Return an id that nobody guesses."""
    return f"{prefix}_{uuid4().hex}{uuid4().hex[:8]}"


def shown(item: Message | FunctionCall | FunctionCallOutput | Reasoning) -> dict[str, Any]:
    """Return an item as it is stored and shown: with an id and a status, its content in parts."""
    id = item.id if item.id and _OWN_ID.fullmatch(item.id) else new_id(PREFIXES[item.type])
    head: dict[str, Any] = {"id": id, "type": item.type, "status": item.status or "completed"}
    match item:
        case Message(role=role, content=parts):
            content = [_part(part, of_assistant=role == "assistant") for part in parts]
            return head | {"role": role, "content": content}
        case FunctionCall(call_id=call_id, name=name, arguments=arguments):
            return head | {"call_id": call_id, "name": name, "arguments": arguments}
        case FunctionCallOutput(call_id=call_id, output=parts):
            text = "".join(_text(part) for part in parts)
            return head | {"call_id": call_id, "output": text}
        case Reasoning(summary=summary, content=content):
            shown_content = [{"type": "reasoning_text", "text": one.text} for one in content or []]
            texts = [{"type": "summary_text", "text": one.text} for one in summary or []]
            return head | {"summary": texts, "content": shown_content}


def chat_messages(instructions: str | None, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages, in the shape of chat completions, that items make.

    Calls that follow each other are one turn of the assistant's, with the thoughts and the text before them.
    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    thoughts: dict[str, Any] = {}
    for item in items:
        match item["type"]:
            case "reasoning":
                text = "".join(part["text"] for part in item.get("content") or item["summary"])
                thoughts = {"reasoning_content": text} if text else {}
            case "message":
                messages.append({"role": item["role"], "content": text_of(item)})
                if item["role"] == "assistant":
                    messages[-1] |= thoughts
                    thoughts = {}
            case "function_call":
                called = {"name": item["name"], "arguments": item["arguments"]}
                call = {"id": item["call_id"], "type": "function", "function": called}
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": None, **thoughts})
                    thoughts = {}
                messages[-1].setdefault("tool_calls", []).append(call)
            case "function_call_output":
                messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]})
    return messages


def text_of(item: dict[str, Any]) -> str:
    """Return the text of a message as it is shown."""
    return "".join(part.get("text", part.get("refusal", "")) for part in item["content"])


def _part(part: Text | Refusal, *, of_assistant: bool) -> dict[str, Any]:
    if isinstance(part, Refusal) and of_assistant:
        return {"type": "refusal", "refusal": part.refusal}
    if of_assistant:
        return {"type": "output_text", "text": _text(part), "annotations": []}
    return {"type": "input_text", "text": _text(part)}


def _text(part: Text | Refusal) -> str:
    return part.refusal if isinstance(part, Refusal) else part.text
