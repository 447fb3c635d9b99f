"""The generation prompt of a conversation: the same tokens that preceded the answer in training."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedTokenizerBase

from configs.tool_formats import call_format_of
from tasks.data.examples import DatasetError, Message, canonical_json
from tasks.data.generic_tools import in_words, one_call_each
from tasks.data.segments import RenderedExample
from tasks.data.template import PromptEnding, Renderer
from tasks.data.tokenizing import Encoder

_PROBE = canonical_json(
    [{"type": "function", "function": {"name": "look", "description": "d", "parameters": {"type": "object"}}}]
)
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class GenerationPrompt:
    """What a model is given before it answers."""

    token_ids: list[int]
    text: str
    in_words: bool
    """Whether tools and calls are told in words, as the chat template has no place for them."""


class GenerationPrompts:
    """Renders conversations in a tokenizer's chat format, up to the beginning of the assistant's turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._renderer = Renderer(tokenizer)
        self._encoder = Encoder(tokenizer)

    def template(self, *, with_tools: bool) -> str:
        """Return the source of the chat template that conversations are written with; "" if there is none."""
        if not self._tokenizer.chat_template:
            return ""
        return str(self._tokenizer.get_chat_template(None, json.loads(_PROBE) if with_tools else None))

    @cached_property
    def writes_tools(self) -> bool:
        """Whether the chat template has a place for tools."""
        try:
            self._renderer.prompt([Message("user", "q")], _PROBE)
        except DatasetError:
            return False
        return True

    def token_ids(
        self,
        messages: Sequence[Message],
        tools: str | None = None,
        arguments: Mapping[str, Any] = MappingProxyType({}),
        ending: PromptEnding = "answer",
    ) -> list[int]:
        """Return the ids of the text before the answer; as `prompt`."""
        return self.prompt(messages, tools, arguments, ending).token_ids

    def prompt(
        self,
        messages: Sequence[Message],
        tools: str | None = None,
        arguments: Mapping[str, Any] = MappingProxyType({}),
        ending: PromptEnding = "answer",
    ) -> GenerationPrompt:
        """Return the text before the answer, and its ids; control tokens that a message spells are text in it.

        `tools` are those of `Example`, `arguments` what the chat template is given besides. Raises DatasetError if the
        chat template can't render the messages, and could not either if tools and calls were told in words.
        """
        rendered, is_in_words = self._rendered(messages, tools, arguments, ending)
        token_ids: list[int] = self._encoder.encode([rendered]).token_ids.tolist()
        return GenerationPrompt(token_ids, rendered.text, is_in_words)

    def _rendered(
        self, messages: Sequence[Message], tools: str | None, arguments: Mapping[str, Any], ending: PromptEnding
    ) -> tuple[RenderedExample, bool]:
        has_calls = any(message.role == "tool" or message.tool_calls is not None for message in messages)
        first_error: DatasetError | None = None
        if tools is None or self.writes_tools:
            for turns, told in self._forms(messages, tools, has_calls=has_calls):
                try:
                    return self._renderer.prompt(turns, told, arguments, ending), False
                except DatasetError as error:
                    first_error = first_error or error
        if first_error is not None and tools is None and not has_calls:
            raise first_error
        for with_system in (True, False):
            try:
                turns = in_words(messages, tools, with_system=with_system)
                rendered = self._renderer.prompt(turns, None, arguments, ending)
            except DatasetError as error:
                first_error = first_error or error
                continue
            if not with_system or turns[0].role != "system" or turns[0].text.strip() in rendered.text:
                return rendered, True
        assert first_error is not None
        raise first_error

    def _forms(
        self, messages: Sequence[Message], tools: str | None, *, has_calls: bool
    ) -> Iterator[tuple[Sequence[Message], str | None]]:
        """Yield the turns and the tools as they are, and as templates ask for them.

        Some know one call in a turn, and some can't do without what OpenAI's API lets a function leave out.
        """
        if has_calls and call_format_of(self.template(with_tools=True)).startswith("mistral"):
            messages = tuple(map(_with_short_ids, messages))
        single = one_call_each(messages) if has_calls else tuple(messages)
        all_turns = [messages] if single == tuple(messages) else [messages, single]
        full = None if tools is None else _with_all_fields(tools)
        for told in [tools] if full == tools else [tools, full]:
            for turns in all_turns:
                yield turns, told


def _with_all_fields(tools: str) -> str:
    missing = {"description": "", "parameters": {"type": "object", "properties": {}}}
    return canonical_json([tool | {"function": missing | tool["function"]} for tool in json.loads(tools)])


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
