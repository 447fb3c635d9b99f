"""From the text that a model writes to what clients are told: content, reasoning, and calls of functions."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from api.engine_server.schemas import AnswerForm
from api.generation.calls.readers import reader_of
from api.generation.calls.sections import SectionReader
from api.generation.calls.text_reader import Steps, TextReader, beginning_of
from api.generation.calls.typed_values import Schemas
from api.generation.parts import CallArguments, CallBegun, Content, Part, Reasoning
from configs.tool_formats import REASONING

__all__ = ["AnswerReader", "CallArguments", "CallBegun", "Content", "Part", "Reasoning"]


class AnswerReader:
    """Takes one answer apart, whatever pieces it comes in."""

    def __init__(
        self,
        form: AnswerForm,
        names: Collection[str],
        schemas: Schemas = MappingProxyType[str, Mapping[str, object]]({}),
    ) -> None:
        """`names` are those of the functions that may be called, `schemas` those of their arguments.

        Without any, everything but reasoning is content.
        """
        begins = form.reasoning if form.reasoning in REASONING else None
        self._thoughts = None if begins is None else ReasoningReader(begins, inside=form.begins_in_reasoning)
        self._calls = reader_of(form.tool_format, names, schemas)
        if isinstance(self._calls, SectionReader):
            self._calls.lenient = form.lenient

        self._told: dict[int, int] = {}

    @property
    def calls(self) -> int:
        """How many have begun."""
        return len(self._told) + (0 if self._calls is None else self._calls.calls)

    def told(self, reasoning: str, calls: Sequence[Mapping[str, Any]]) -> list[Part]:
        """Return the parts that a server has read by itself: `calls` are pieces of OpenAI's `tool_calls`."""
        parts: list[Part] = [Reasoning(reasoning)] if reasoning else []
        for piece in calls:
            number, function = int(piece.get("index", 0)), piece.get("function") or {}
            if number not in self._told:
                self._told[number] = self.calls
                id = str(piece.get("id") or f"call_{uuid4().hex[:24]}")
                parts.append(CallBegun(self._told[number], id, str(function.get("name"))))
            if arguments := function.get("arguments"):
                parts.append(CallArguments(self._told[number], arguments))
        return parts

    def push(self, text: str) -> list[Part]:
        """Return the parts that are certain now."""
        if self._thoughts is None:
            return self._read(text)
        return self._read_content(self._thoughts.push(text))

    def end(self) -> list[Part]:
        """Return what is left once the text has ended."""
        parts = [] if self._thoughts is None else self._read_content(self._thoughts.end())
        return parts if self._calls is None else parts + self._calls.end()

    def _read(self, text: str) -> list[Part]:
        if self._calls is None:
            return [Content(text)] if text else []
        return self._calls.push(text)

    def _read_content(self, parts: list[Part]) -> list[Part]:
        read: list[Part] = []
        for part in parts:
            read += self._read(part.text) if isinstance(part, Content) else [part]
        return read


class ReasoningReader(TextReader):
    """Parts the reasoning that an answer begins with from what follows."""

    def __init__(self, opening: str, *, inside: bool) -> None:
        """`inside`: the prompt has begun the reasoning."""
        super().__init__()
        self._opening = opening
        self._closing = REASONING[opening]
        self._inside = inside

    def _read(self) -> Steps[None]:
        while len(rest := self._text.lstrip()) < len(self._opening) and self._opening.startswith(rest):
            if not (yield from self._more()):
                break
        if rest.startswith(self._opening):
            self._text = rest[len(self._opening) :]
            self._inside = True
        if self._inside:
            yield from self._reasoning()
        while True:
            self._said(self._taken(len(self._text)))
            if not (yield from self._more()):
                return

    def _reasoning(self) -> Steps[None]:
        """Read up to where the reasoning ends; white space around it belongs to the format."""
        begun = False
        while True:
            at = self._text.find(self._closing)
            held = 0 if self._ended else beginning_of((self._closing,), self._text)
            size = at if at >= 0 else len(self._text) - held
            piece = self._text[:size].rstrip()
            self._taken(len(piece))
            if (piece := piece if begun else piece.lstrip()) != "":
                begun = True
                self._parts.append(Reasoning(piece))
            if at >= 0:
                self._taken(self._text.find(self._closing) + len(self._closing))
                break
            if not (yield from self._more()):
                self._text = ""
                return
        while not self._text.strip() and (yield from self._more()):
            pass
        self._text = self._text.lstrip()
