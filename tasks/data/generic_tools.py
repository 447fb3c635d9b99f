"""Conversations with tools for chat templates that have no place for them: in words, as Hermes and Qwen are told."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tasks.data.examples import Message, canonical_json

_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
)
_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def in_words(messages: Sequence[Message], tools: str | None, *, with_system: bool) -> tuple[Message, ...]:
    """Return the conversation as turns of system, user and assistant alone, which alternate.

    `tools` are those of `Example`; they are told in the system's turn, or without one (`with_system` is false) before
    the first question. Earlier calls are written as `<tool_call>`, their results as `<tool_response>` in a user's turn.
    """
    told = [message.text for message in messages if message.role == "system"]
    if tools is not None:
        told.append(_BEFORE + "\n".join(json.dumps(tool, ensure_ascii=False) for tool in json.loads(tools)) + _AFTER)
    turns: list[Message] = []
    for message in messages:
        if message.role == "system":
            continue
        turn = _as_text(message)
        if turns and turns[-1].role == turn.role:
            turns[-1] = replace(turn, content=f"{turns[-1].text}\n{turn.text}")
        else:
            turns.append(turn)
    system = "\n\n".join(text for text in told if text)
    if not system:
        return tuple(turns)
    if with_system:
        return (Message("system", system), *turns)
    if turns and turns[0].role == "user":
        return (replace(turns[0], content=f"{system}\n\n{turns[0].text}"), *turns[1:])
    return (Message("user", system), *turns)


def one_call_each(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the turns with each call in a turn of its own, followed by its result, as some templates need it."""
    turns: list[Message] = []
    left = list(messages)
    while left:
        message = left.pop(0)
        calls: list[dict[str, Any]] = json.loads(message.tool_calls) if message.tool_calls else []
        if len(calls) < 2:
            turns.append(message)
            continue
        results: list[Message] = []
        while left and left[0].role == "tool":
            results.append(left.pop(0))
        for place, call in enumerate(calls):
            words = message.content if place == 0 else None
            turns.append(replace(message, content=words, tool_calls=canonical_json([call])))
            result = next(
                (one for one in results if one.tool_call_id == call.get("id")), results[0] if results else None
            )
            if result is not None:
                results.remove(result)
                turns.append(result)
        turns += results
    return tuple(turns)


def _as_text(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.text}\n</tool_response>")
    if message.tool_calls is None:
        return message
    functions = [call["function"] for call in message.for_template()["tool_calls"]]
    calls = [
        json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
        for function in functions
    ]
    written = [f"<tool_call>\n{call}\n</tool_call>" for call in calls]
    return replace(message, content="\n".join(filter(None, [message.text, *written])), tool_calls=None)
