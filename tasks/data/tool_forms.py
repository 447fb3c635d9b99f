"""Conversations with tools, in the forms that chat templates take them, or in words where one has no place for them.

Rows that are learned and requests that are answered get the same form, so that a model is asked as it was taught.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedTokenizerBase

from configs.tool_formats import call_format_of
from tasks.data.examples import DatasetError, Example, Message, canonical_json
from tasks.data.generic_tools import in_words, one_call_each
from tasks.data.segments import RenderedExample
from tasks.data.template import PromptEnding, Renderer

_PROBE = canonical_json(
    [{"type": "function", "function": {"name": "look", "description": "d", "parameters": {"type": "object"}}}]
)
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


class ToolRenderer:
    """Writes rows and prompts in a tokenizer's chat format, as `Renderer` does, and their tools where that can't."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.strict = Renderer(tokenizer)
        """Knows one form, and no words."""

    def template(self, *, with_tools: bool) -> str:
        """Return the source of the chat template that conversations are written with; "" if there is none."""
        if not self._tokenizer.chat_template:
            return ""
        return str(self._tokenizer.get_chat_template(None, json.loads(_PROBE) if with_tools else None))

    @cached_property
    def writes_tools(self) -> bool:
        """Whether the chat template has a place for tools."""
        try:
            self.strict.prompt([Message("user", "q")], _PROBE)
        except DatasetError:
            return False
        return True

    def row(self, example: Example) -> tuple[RenderedExample, bool]:
        """Return a row's segments, and whether its tools and calls are told in words; raises DatasetError."""
        try:
            return self.strict.render(example), False
        except DatasetError as error:
            if example.text is not None or not (example.tools or _has_calls(example.messages)):
                raise
            first_error = error
        forms = [
            replace(example, messages=tuple(turns), tools=told)
            for turns, told in self._forms(example.messages, example.tools)
        ]
        for form in forms:
            try:
                return self.strict.render(form), False
            except DatasetError:
                continue
        if any(self._is_written(form) for form in forms) or not _can_be_joined(example.messages):
            raise first_error
        for with_system in (True, False):
            try:
                turns = in_words(example.messages, example.tools, with_system=with_system)
                return self.strict.render(replace(example, messages=turns, tools=None)), True
            except DatasetError:
                continue
        raise first_error

    def _is_written(self, example: Example) -> bool:
        """Whether a request with the same turns would be written by the template: then it is no matter of tools."""
        if example.tools is not None and not self.writes_tools:
            return False
        try:
            self.strict.prompt(example.messages, example.tools)
        except DatasetError:
            return False
        return True

    def prompt(
        self,
        messages: Sequence[Message],
        tools: str | None,
        arguments: Mapping[str, Any] = MappingProxyType({}),
        ending: PromptEnding = "answer",
    ) -> tuple[RenderedExample, bool]:
        """Return the text before an answer, and whether tools and calls are told in words; raises DatasetError."""
        has_calls = _has_calls(messages)
        first_error: DatasetError | None = None
        if tools is None or self.writes_tools:
            for turns, told in self._forms(messages, tools):
                try:
                    return self.strict.prompt(turns, told, arguments, ending), False
                except DatasetError as error:
                    first_error = first_error or error
        if first_error is not None and tools is None and not has_calls:
            raise first_error
        for with_system in (True, False):
            try:
                turns = in_words(messages, tools, with_system=with_system)
                rendered = self.strict.prompt(turns, None, arguments, ending)
            except DatasetError as error:
                first_error = first_error or error
                continue
            if not with_system or turns[0].role != "system" or turns[0].text.strip() in rendered.text:
                return rendered, True
        assert first_error is not None
        raise first_error

    def _forms(self, messages: Sequence[Message], tools: str | None) -> Iterator[tuple[Sequence[Message], str | None]]:
        """Yield the turns and the tools as they are, and as templates ask for them.

        Some know one call in a turn, and some can't do without what OpenAI's API lets a function leave out.
        """
        has_calls = _has_calls(messages)
        if has_calls and call_format_of(self.template(with_tools=True)).startswith("mistral"):
            messages = tuple(map(_with_short_ids, messages))
        single = one_call_each(messages) if has_calls else tuple(messages)
        all_turns = [messages] if single == tuple(messages) else [messages, single]
        full = None if tools is None else _with_all_fields(tools)
        for told in [tools] if full == tools else [tools, full]:
            for turns in all_turns:
                yield turns, told


def _has_calls(messages: Sequence[Message]) -> bool:
    return any(message.role == "tool" or message.tool_calls is not None for message in messages)


def _can_be_joined(messages: Sequence[Message]) -> bool:
    """Whether turns that follow each other are learned alike: in words they become one."""
    learned = [(message.role, message.learned, message.weight) for message in messages if message.role != "system"]
    return all(one == two for one, two in pairwise(learned) if one[0] == two[0] == "assistant")


def _with_all_fields(tools: str) -> str:
    missing = {"description": "", "parameters": {"type": "object", "properties": {}}}
    found = json.loads(tools)
    if not all(isinstance(tool.get("function"), dict) for tool in found):
        return tools  # of a form of their own, as rows may have them
    return canonical_json([tool | {"function": missing | tool["function"]} for tool in found])


def _with_short_ids(message: Message) -> Message:
    """Return the turn with ids of nine letters and digits, which Mistral's templates ask for: equal ones stay equal."""
    calls: list[dict[str, Any]] = json.loads(message.tool_calls) if message.tool_calls else []
    short = [call | {"id": _short_id(call["id"])} if "id" in call else call for call in calls]
    return replace(
        message,
        tool_calls=canonical_json(short) if calls else message.tool_calls,
        tool_call_id=message.tool_call_id and _short_id(message.tool_call_id),
    )


def _short_id(id: str) -> str:
    if _SHORT_ID.fullmatch(id):
        return id
    return "".join(_DIGITS[byte % len(_DIGITS)] for byte in hashlib.sha256(id.encode()).digest()[:9])
