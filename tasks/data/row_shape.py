"""What conversations have in common that differ only in their words: their shape, and the words apart from it."""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tasks.data.examples import Example, Message
from tasks.data.trace import PRIVATE_CHARACTERS, text_slot, value_slot
from tasks.data.traced_text import Kind

Shape = tuple[Any, ...]
_CALL, _FUNCTION = {"type", "function", "id"}, {"name", "arguments"}


@dataclass(frozen=True, slots=True)
class Depth:
    """How far a shape looks into a row, where a template does so too."""

    arguments: bool = False
    """Whether the names of a call's arguments belong to the shape."""
    tools: bool = False
    """Whether the tools do, all of them."""


class ShapedRow:
    """A conversation's shape, and its values in their order."""

    def __init__(self, example: Example, depth: Depth) -> None:
        self.leaves: list[Any] = []
        self._is_plain = True
        self._depth = depth
        if example.is_plain and (roles := self._roles(example)):
            self.shape: Shape | None = roles
            return
        shape: list[Any] = []
        for message in example.messages:
            if message.has_only_content:
                content = message.content
                shape.append((message.role, message.learned, bool(content)))
                if content:
                    self._add(content)
            else:
                shape.append(self._message(message))
        if example.tools is not None:
            shape.append(self._tools(example.tools))
        self.shape = tuple(shape) if self._is_plain and None not in shape else None
        """None where it has something that no shape knows."""

    def _roles(self, example: Example) -> Shape | None:
        """Return the shape of contents alone, none of them empty or out of the ordinary; None for any other."""
        roles = []
        for message in example.messages:
            content = message.content
            if not content or not (content.isascii() or PRIVATE_CHARACTERS.search(content) is None):
                self.leaves.clear()
                return None
            roles.append(message.role)
            self.leaves.append(content)
        return tuple(roles)

    def _message(self, message: Message) -> Shape | None:
        texts = tuple(map(self._text, (message.content, message.reasoning, message.tool_call_id, message.name)))
        calls: Any = message.tool_calls and self._calls(json.loads(message.tool_calls))
        return None if calls is False else (message.role, message.learned, *texts, calls)

    def _text(self, text: str | None) -> bool | None:
        if text:
            self._add(text)
            return True
        return None if text is None else False

    def _calls(self, calls: list[dict[str, Any]]) -> Any:
        shapes = []
        for call in calls:
            function = call["function"]
            if not (call.keys() <= _CALL and function.keys() == _FUNCTION and call["type"] == "function"):
                return False
            arguments = _arguments(function["arguments"])
            shape = self._text(function["name"]), self._text(call.get("id")), self._arguments(arguments)
            if shape[2] is False:
                return False
            shapes.append(shape)
        return tuple(shapes)

    def _arguments(self, arguments: dict[str, Any]) -> Any:
        if not self._depth.arguments:
            self.leaves.append(arguments)
            return None
        if any(map(PRIVATE_CHARACTERS.search, arguments)):
            return False
        return tuple([(name, self._argument(value)) for name, value in arguments.items()])

    def _argument(self, value: Any) -> Any:
        if value == "":
            return False
        self._add(value)
        return isinstance(value, str) or None

    def _add(self, value: Any) -> None:
        self.leaves.append(value)
        if isinstance(value, str) and not value.isascii() and PRIVATE_CHARACTERS.search(value):
            self._is_plain = False

    def _tools(self, written: str) -> Any:
        tools = _parsed_tools(written)
        if self._depth.tools:
            return None if PRIVATE_CHARACTERS.search(written) else written
        if not (tools and isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
            return None
        self.leaves += tools
        return len(tools)


class Placeholders:
    """A conversation with slots in place of its values, in the order in which `ShapedRow` has them."""

    def __init__(self, example: Example, depth: Depth) -> None:
        self.kinds: list[Kind] = []
        """What each value is."""
        self._depth = depth
        self.turns = list(map(self._turn, example.messages))
        """As `Message.for_template` returns them."""
        self.tools: list[Any] | None = None
        if example.tools is not None:
            tools = _parsed_tools(example.tools)
            self.tools = tools if depth.tools else [value_slot(self._next("tools")) for _ in tools]

    def _turn(self, message: Message) -> dict[str, Any]:
        texts = message.content, message.reasoning, message.tool_call_id, message.name
        content, reasoning, call_id, name = (self._text(text, "text") for text in texts)
        turn: dict[str, Any] = {"role": message.role, "content": content}
        if reasoning is not None:
            turn["reasoning_content"] = reasoning
        if message.tool_calls is not None:
            turn["tool_calls"] = list(map(self._call, json.loads(message.tool_calls)))
        return turn | {field: text for field, text in (("tool_call_id", call_id), ("name", name)) if text is not None}

    def _text(self, text: str | None, kind: Kind) -> str | None:
        return text_slot(self._next(kind)) if text else text

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        name, call_id = self._text(call["function"]["name"], "call"), self._text(call.get("id"), "text")
        values = _arguments(call["function"]["arguments"])
        arguments: Any
        if self._depth.arguments:
            arguments = {argument: self._argument(value) for argument, value in values.items()}
        else:
            arguments = value_slot(self._next("arguments"))
        placed = call | {"function": call["function"] | {"name": name, "arguments": arguments}}
        return placed if call_id is None else placed | {"id": call_id}

    def _argument(self, value: Any) -> Any:
        if value == "":
            return value
        return text_slot(self._next("call")) if isinstance(value, str) else value_slot(self._next("arguments"))

    def _next(self, kind: Kind) -> int:
        self.kinds.append(kind)
        return len(self.kinds) - 1


def _arguments(written: Any) -> dict[str, Any]:
    """Return a call's arguments as chat templates expect them; see `Message.for_template`."""
    arguments: dict[str, Any] = json.loads(written or "{}") if isinstance(written, str) else written
    return arguments


@lru_cache(256)
def _parsed_tools(written: str) -> Any:
    return json.loads(written)
