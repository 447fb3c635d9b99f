"""From the text that a model writes to what clients are told: content, reasoning, and calls of functions."""

from collections.abc import Collection
from dataclasses import dataclass

from api.engine_server.schemas import AnswerForm
from api.generation.tool_calls import CallReader, ToolCall


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of what the model answers."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The model calls a function: the answer's call number `index`, from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the JSON text of a call's arguments."""

    index: int
    text: str


Part = Content | Reasoning | CallBegun | CallArguments


class AnswerReader:
    """Takes one answer apart, whatever pieces it comes in."""

    def __init__(self, form: AnswerForm, names: Collection[str]) -> None:
        """`names` are those of the functions that may be called; none: everything is text."""
        self._form = form
        self._calls = CallReader(names) if names else None
        self.calls = 0
        """How many have begun."""

    def push(self, text: str) -> list[Part]:
        """Return the parts that are certain now."""
        if self._calls is None:
            return [Content(text)] if text else []
        content, calls = self._calls.push(text)
        return self._parts(content, calls)

    def end(self) -> list[Part]:
        """Return what is left once the text has ended."""
        if self._calls is None:
            return []
        content, calls = self._calls.end()
        return self._parts(content, calls)

    def _parts(self, content: str, calls: list[ToolCall]) -> list[Part]:
        parts: list[Part] = [Content(content)] if content else []
        for call in calls:
            parts += [CallBegun(self.calls, call.id, call.name), CallArguments(self.calls, call.arguments)]
            self.calls += 1
        return parts
