"""Reads the calls out of what a model writes: `<tool_call>` tags (Hermes, Qwen, our own templates), or bare JSON.

A text goes through a `CallReader` as it comes; what may still become a call is held back, anything else is content.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

OPENING, CLOSING = "<tool_call>", "</tool_call>"
_ARGUMENTS = ("arguments", "parameters")
"""Where a call has its arguments: in most formats, and in Llama 3's."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model calls; `arguments` are the JSON text of an object."""

    id: str
    name: str
    arguments: str

    def as_json(self) -> dict[str, Any]:
        """Return it as OpenAI's API has it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class CallReader:
    """Takes a text apart into content and calls, whatever pieces it comes in.

    A call must be JSON with a name and an object of arguments; within tags any name counts, as a model that makes one
    up has made a call. Bare JSON is a call only if all of the text is, and names a known function. What is no call
    stays content, word for word.
    """

    def __init__(self, names: Collection[str]) -> None:
        """`names` are those of the functions that may be called."""
        self._names = names
        self._held = ""
        self._has_content = False
        self.calls = 0
        """How many have been read."""

    def push(self, text: str) -> tuple[str, list[ToolCall]]:
        """Return the content that is certain now, and the calls that are complete."""
        self._held += text
        content, calls = "", list[ToolCall]()
        while not self._may_be_bare():
            before, opening, rest = self._held.partition(OPENING)
            inner, closing, after = rest.partition(CLOSING)
            if not closing:
                certain = len(before.rstrip()) if opening else len(before) - _possible_tag(before)
                content += self._certain(self._held[:certain])
                self._held = self._held[certain:]
                break
            # White space around a call belongs to the format.
            if (call := _call(inner)) is not None:
                content += self._certain(before.rstrip())
                calls.append(call)
                self.calls += 1
            else:
                content += self._certain(before + opening + inner + closing)
            self._held = after
        return content, calls

    def end(self) -> tuple[str, list[ToolCall]]:
        """Return what is left once the text has ended."""
        held, self._held = self._held, ""
        before, opening, rest = held.partition(OPENING)
        if opening and (call := _call(rest)) is not None:
            # The closing tag is missing where it, or the end of the answer, is a token that is not shown.
            content, calls = before.rstrip(), [call]
        elif not self._has_content and not self.calls and (bare := _bare_calls(held, self._names)):
            content, calls = "", bare
        else:
            content, calls = held if held.strip() or not self.calls else "", []
        self.calls += len(calls)
        return content, calls

    def _certain(self, content: str) -> str:
        self._has_content |= bool(content.strip())
        return content

    def _may_be_bare(self) -> bool:
        """Whether all of the text may be bare JSON: it is held back until it ends."""
        return not self._has_content and not self.calls and self._held.lstrip().startswith("{")


def _possible_tag(text: str) -> int:
    """Return how many characters at the end may be the beginning of a call: of a tag, and white space before it."""
    longest = next((size for size in range(len(OPENING) - 1, 0, -1) if text.endswith(OPENING[:size])), 0)
    before = text[: len(text) - longest]
    return longest + len(before) - len(before.rstrip())


def _call(text: str) -> ToolCall | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return _call_of(value)


def _call_of(value: Any) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    written: Any = next((value[field] for field in _ARGUMENTS if field in value), {})
    if isinstance(written, str):
        try:
            written = json.loads(written or "{}")
        except ValueError:
            return None
    if not isinstance(written, dict):
        return None
    return ToolCall(f"call_{uuid4().hex[:24]}", value["name"], json.dumps(written, ensure_ascii=False))


def _bare_calls(text: str, names: Collection[str]) -> list[ToolCall] | None:
    """Return the calls of a text that holds nothing else; None if it does."""
    decoder, calls, rest = json.JSONDecoder(), [], text.strip()
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except ValueError:
            return None
        call = _call_of(value)
        if call is None or call.name not in names or not any(field in value for field in _ARGUMENTS):
            return None
        calls.append(call)
        rest = rest[end:].lstrip(" \r\n\t;,")
    return calls or None
