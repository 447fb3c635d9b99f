"""Turns of a conversation, as OpenAI's chat API and ShareGPT write them."""

import math
from collections.abc import Mapping
from typing import Any

from tasks.data.examples import DatasetError, Message, Role, canonical_json
from tasks.data.reading.records import described, parse_json, shortened

_FUNCTION_CALL = "function_call"
_REASONING = ("reasoning_content", "reasoning", "thinking")
WEIGHTS = ("weight", "loss_weight")
"""Names of what a turn or a row counts in the loss."""
SMALLEST_WEIGHT, LARGEST_WEIGHT = 1e-6, 1_000_000
"""Within float32, also where a row's and a turn's weight are multiplied."""
_OPENAI_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_SHAREGPT_ROLES: Mapping[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    _FUNCTION_CALL: "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}


def read_turns(value: Any, column: str) -> tuple[Message, ...]:
    """Return the turns of a list, or of a list as JSON text, such as a CSV cell has.

    A turn has `role` and `content` (OpenAI) or `from` and `value` (ShareGPT). Raises DatasetError naming the turn.
    """
    turns = _parsed(value, column)
    if not isinstance(turns, list) or not turns:
        raise DatasetError(f"{column} is {described(value)}; a list with at least one message is accepted")
    return tuple([_said(turn) or _turn(turn, f"{column}[{place}]") for place, turn in enumerate(turns)])


def _said(turn: Any) -> Message | None:
    """Return a turn that is a role and a text, as most are; None where it is more, or in error."""
    if type(turn) is dict and len(turn) == 2:
        role, content = turn.get("role"), turn.get("content")
        if type(role) is str and type(content) is str and role in _OPENAI_ROLES:
            return Message(_OPENAI_ROLES[role], content)
    return None


def read_tools(value: Any, column: str) -> str | None:
    """Return a list of tools, or one as JSON text, as canonical JSON in OpenAI's format; None where there is none."""
    if value is None or value == "":
        return None
    tools = _parsed(value, column)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DatasetError(f"{column} is {described(value)}; a list of tools, each an object, is accepted")
    return _exact_json([_openai_tool(tool) for tool in tools], column) if tools else None


def _openai_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """Return a tool as OpenAI's chat API has it: requests for answers have them so, and must find what was learned."""
    is_bare = isinstance(tool.get("name"), str) and "function" not in tool and tool.get("type") in (None, "function")
    if not is_bare:
        return tool
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _turn(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict):
        raise DatasetError(f"{place} is {described(turn)}; an object with role and content is accepted")
    if "role" in turn:
        return _openai_turn(turn, place)
    if "from" in turn:
        return _sharegpt_turn(turn, place)
    raise DatasetError(f"{place} has neither role nor from: {shortened(turn)}")


def _openai_turn(turn: dict[str, Any], place: str) -> Message:
    role = _role(turn["role"], _OPENAI_ROLES, f"{place}.role")
    calls = None
    if role == "assistant":
        calls = _calls(turn.get("tool_calls"), f"{place}.tool_calls")
        if calls is None and turn.get(_FUNCTION_CALL) is not None:
            calls = _canonical_calls([turn[_FUNCTION_CALL]], f"{place}.{_FUNCTION_CALL}")
    content = turn.get("content")
    if content is not None and not isinstance(content, str):
        content = _joined_parts(content, f"{place}.content")
    reasoning = _reasoning(turn, place) if role == "assistant" else None
    if content is None and calls is None and reasoning is None:
        raise DatasetError(f"{place}.content is {described(content)}; a text or a list of text parts is accepted")
    if len(turn) == 2:
        return Message(role, content, tool_calls=calls)
    is_learned, weight = _weight_of(turn, role, place)
    call_id = _optional_text(turn.get("tool_call_id"), f"{place}.tool_call_id")
    name = _optional_text(turn.get("name"), f"{place}.name")
    return Message(role, content, is_learned, calls, call_id, name, reasoning, weight)


def _sharegpt_turn(turn: dict[str, Any], place: str) -> Message:
    role = _role(turn["from"], _SHAREGPT_ROLES, f"{place}.from")
    value = turn.get("value")
    if not isinstance(value, str):
        raise DatasetError(f"{place}.value is {described(value)}; a text is accepted")
    is_learned, weight = _weight_of(turn, role, place)
    if turn["from"] != _FUNCTION_CALL:
        return Message(role, value, is_learned, weight=weight)
    try:
        calls = parse_json(value)
    except DatasetError as error:
        raise DatasetError(f"{place}.value {error}") from None
    called = _canonical_calls(calls if isinstance(calls, list) else [calls], f"{place}.value")
    return Message(role, None, is_learned, called, weight=weight)


def _role(value: Any, roles: Mapping[str, Role], place: str) -> Role:
    role = roles.get(value) if isinstance(value, str) else None
    if role is None:
        raise DatasetError(f"{place} is {described(value)}; one of {', '.join(roles)} is accepted")
    return role


def _joined_parts(content: Any, place: str) -> str:
    """Return the text of a list of content parts: OpenAI's have it in `text`, LLaMA-Factory's in `value`."""
    if not isinstance(content, list):
        raise DatasetError(f"{place} is {described(content)}; a text or a list of text parts is accepted")
    texts = []
    for index, part in enumerate(content):
        is_text = isinstance(part, dict) and part.get("type") == "text"
        text = part.get("text", part.get("value")) if is_text else None
        if not isinstance(text, str):
            raise DatasetError(f"{place}[{index}] is {described(part)}; only parts of the type text are accepted")
        texts.append(text)
    return "".join(texts)


def _reasoning(turn: dict[str, Any], place: str) -> str | None:
    """Return what the assistant thought, by whichever of its names it is written."""
    found = {field: _optional_text(turn.get(field), f"{place}.{field}") for field in _REASONING}
    texts = {text for text in found.values() if text}
    if len(texts) > 1:
        fields = " and ".join(field for field, text in found.items() if text)
        raise DatasetError(f"{place} has different texts in {fields}; one is accepted")
    return texts.pop() if texts else None


def _weight_of(turn: dict[str, Any], role: Role, place: str) -> tuple[bool, float]:
    """Return whether a turn is learned, and what each of its tokens then counts in the loss."""
    weights = {name: read_weight(turn[name], f"{place}.{name}") for name in WEIGHTS if turn.get(name) is not None}
    if not weights:
        return True, 1.0
    weight, *others = set(weights.values())
    if others:
        raise DatasetError(f"{place} has different numbers in {' and '.join(weights)}; one is accepted")
    if role == "assistant":
        return weight > 0, weight or 1.0
    if weight not in (0, 1):
        raise DatasetError(
            f"{place}.{next(iter(weights))} is {weight:g}, and the turn is the {role}'s, which is not learned: 0 and 1 "
            "are accepted there, and change nothing"
        )
    return True, 1.0


def read_weight(value: Any, place: str) -> float:
    """Return what a turn or a row counts in the loss. Raises DatasetError for what is no weight."""
    if isinstance(value, int | float) and (value == 0 or SMALLEST_WEIGHT <= value <= LARGEST_WEIGHT):
        return float(value)
    raise DatasetError(
        f"{place} is {described(value)}; 0, or a number from {SMALLEST_WEIGHT:g} to {LARGEST_WEIGHT:,}, is accepted"
    )


def _optional_text(value: Any, place: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise DatasetError(f"{place} is {described(value)}; a text is accepted")


def _calls(value: Any, place: str) -> str | None:
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise DatasetError(f"{place} is {described(value)}; a list of calls is accepted")
    functions = []
    for index, call in enumerate(value):
        if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
            raise DatasetError(f"{place}[{index}] is {described(call)}; an object with a function is accepted")
        functions.append(call["function"])
    ids = [_optional_text(call.get("id"), f"{place}[{index}].id") for index, call in enumerate(value)]
    return _canonical_calls(functions, place, ids)


def _canonical_calls(functions: list[Any], place: str, ids: list[str | None] | None = None) -> str:
    """Return the calls as in OpenAI's API; arguments stay an object, or the JSON text of one, as they were written."""
    calls = []
    for index, function in enumerate(functions):
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise DatasetError(f"{place}[{index}] is {described(function)}; an object with a name is accepted")
        written = function.get("arguments")
        # A function without arguments is called with an empty text, or none.
        arguments = {} if written in (None, "") else _parsed(written, f"{place}[{index}].arguments")
        if not isinstance(arguments, dict):
            raise DatasetError(
                f"{place}[{index}].arguments is {described(arguments)}; an object, or one as JSON text, is accepted"
            )
        _exact_json(arguments, f"{place}[{index}].arguments")
        kept = written if isinstance(written, str) else arguments
        call = {"type": "function", "function": {"name": function["name"], "arguments": kept}}
        calls.append(call if ids is None or ids[index] is None else call | {"id": ids[index]})
    return _exact_json(calls, place)


def _parsed(value: Any, place: str) -> Any:
    """Return what a JSON text holds; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except DatasetError as error:
        raise DatasetError(f"{place} {error}") from None


def _exact_json(value: Any, place: str) -> str:
    """Return the canonical JSON. Raises DatasetError for what JSON has no way to write: NaN, dates, bytes."""
    level = [value]
    while level:
        item = level.pop()
        if isinstance(item, dict):
            level += item.values()
        elif isinstance(item, list):
            level += item
        elif not isinstance(item, str | int | float | None) or (isinstance(item, float) and not math.isfinite(item)):
            raise DatasetError(f"{place} holds {described(item)}, which JSON cannot write")
    return canonical_json(value)
