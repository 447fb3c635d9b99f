"""What a tokenizer's chat template makes of turns: one rendering, the same on every day."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from tasks.data.examples import DatasetError

Turn = dict[str, Any]

TRAINING_DATE = datetime(2024, 7, 26)
"""What a template that asks for the day is told: a row's tokens must not depend on when they are made. It is the day
that Llama 3's own templates fall back to."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_ASKS_FOR_THE_DAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


class ChatTemplate:
    """The template for conversations with these tools; renders turns as `Message.for_template` returns them."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tools: Any,
        *,
        today: bool = False,
        arguments: Mapping[str, Any] = MappingProxyType({}),
        render: Any = None,
    ) -> None:
        """With `today` it knows the real date, for generation; `arguments` are what the template gets besides.

        `render` takes `render_jinja_template`'s place.
        """
        self._render_jinja = render or render_jinja_template
        self._tokenizer = tokenizer
        self._arguments = {**tokenizer.special_tokens_map, **arguments}
        self._tools = tools
        source = str(tokenizer.get_chat_template(None, tools))
        self._in_parts = False
        self.unsuited: list[str] = []
        """Texts in which `suited` did not find what was said."""
        self._source = source if today else _on_training_date(source)
        self.marks_answers = bool(_GENERATION.search(source))
        """Whether it says itself what is generated: `{% generation %}`."""

    def suited(self, turns: list[Turn]) -> tuple[list[Turn], str]:
        """Return the turns in the form that the template takes, with the text: templates differ in how they do calls.

        A turn that only calls has no content, which some templates ask for and others write as the word None; arguments
        are an object, which some can only write as text; and some know contents only as lists of parts. What form it
        is stays so for this template's renderings. Raises DatasetError if it takes none.
        """
        first_error: DatasetError | None = None
        rest: tuple[list[Turn], str] | None = None
        for self._in_parts in (False, True):
            for form in _forms(turns):
                try:
                    text = self.render(form)
                except DatasetError as error:
                    first_error = first_error or error
                    continue
                if any(turn["content"] is None for turn in form) and self._writes_none(form, text):
                    continue
                content = next((turn["content"] for turn in form if turn["content"]), "")
                if content.strip() in text:
                    return form, text
                rest = rest or (form, text)
                self.unsuited.append(text)
        self._in_parts = False
        if rest is not None:
            return rest
        # No form at all: the last of them has no None in it, so it has failed.
        assert first_error is not None
        raise first_error

    def render(self, turns: list[Turn], *, generating: bool = False, with_tools: Any = None) -> str:
        """Return the text; with `generating` up to where the assistant's next turn begins.

        `with_tools` takes the place of the conversation's. Raises DatasetError if the template fails.
        """
        return self._rendered(turns, with_tools or self._tools, generating=generating)[0]

    def render_marked(self, turns: list[Turn]) -> tuple[str, list[tuple[int, int]]]:
        """Return the text, and where in it the parts that the template marks as generated lie."""
        text, spans = self._rendered(turns, self._tools, marking=True)
        return text, [(start, end) for start, end in spans if end > start]

    def _writes_none(self, turns: list[Turn], text: str) -> bool:
        if "None" not in text:
            return False
        try:
            return text.count("None") > self.render(_with_contents(turns)).count("None")
        except DatasetError:
            return False

    def _rendered(
        self, turns: list[Turn], tools: Any, *, generating: bool = False, marking: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        try:
            texts, spans = self._render_jinja(
                conversations=[_in_parts(turns) if self._in_parts else turns],
                tools=tools,
                chat_template=self._source,
                return_assistant_tokens_mask=marking,
                add_generation_prompt=generating,
                **self._arguments,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise DatasetError(f"the tokenizer's chat template cannot render the conversation: {error}") from error
        return str(texts[0]), list(spans[0]) if marking else []


@lru_cache(16)
def _on_training_date(source: str) -> str:
    """Return the template with a macro of its own in place of the clock that transformers gives it."""
    formats = dict.fromkeys(match[2] for match in _ASKS_FOR_THE_DAY.finditer(source))
    if not formats:
        return source
    days = {written: TRAINING_DATE.strftime(written) for written in formats}
    return f"{{%- macro strftime_now(format) -%}}{{{{- {json.dumps(days)}[format] -}}}}{{%- endmacro -%}}{source}"


def _forms(turns: list[Turn]) -> Iterator[list[Turn]]:
    """Yield the turns as they are, and what else they may be written as; in the last one no content is None."""
    has_calls = any("tool_calls" in turn for turn in turns)
    yield turns
    if has_calls:
        yield _with_argument_texts(turns)
    if any(turn["content"] is None for turn in turns):
        yield _with_contents(turns)
        if has_calls:
            yield _with_contents(_with_argument_texts(turns))


def _with_contents(turns: list[Turn]) -> list[Turn]:
    return [turn | {"content": turn["content"] or ""} for turn in turns]


def _in_parts(turns: list[Turn]) -> list[Turn]:
    return [turn | {"content": [{"type": "text", "text": turn["content"] or ""}]} for turn in turns]


def _with_argument_texts(turns: list[Turn]) -> list[Turn]:
    return [
        turn | {"tool_calls": [_with_argument_text(call) for call in turn["tool_calls"]]}
        if "tool_calls" in turn
        else turn
        for turn in turns
    ]


def _with_argument_text(call: dict[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return call | {"function": call["function"] | {"arguments": arguments}}
