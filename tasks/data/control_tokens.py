"""The tokens that structure a conversation, kept out of reach of what people write in their rows."""

import re
from collections.abc import Iterable
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

from tasks.data.examples import DatasetError, Example

MARKS = "\U000f0000\U000f0001"
"""What transformers puts around a control token that a row's text spells."""
_SAMPLE = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "u"},
    {"role": "assistant", "content": "a"},
    {"role": "user", "content": "u"},
]


class ControlTokens:
    """A tokenizer's special tokens, and those of them that begin and end turns: the control tokens.

    A row may spell one: a question about chat formats has `<|im_end|>` in it. In a conversation that is text, and is
    tokenized as text, as transformers does it under `sanitize_control_tokens=True`: otherwise the question would end
    its own turn. Only the template writes control tokens. In a plain text, which no template wraps, they mean what
    they say. A special token that the template does not use (`<filename>`) keeps its meaning everywhere: it can't
    break a conversation, and at inference it has its meaning too.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._plainly_found = {
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special and not (token.lstrip or token.rstrip or token.single_word or token.normalized)
        }
        self._added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        special = (added | set(tokenizer.all_special_tokens)) - {""}
        written = _what_the_template_writes(tokenizer)
        ending = {tokenizer.eos_token, tokenizer.bos_token}
        control = {token for token in special if token in ending or token in written}
        self._special, self._control = _longest_first(special), _longest_first(control)
        self._special_text, self._control_text = _any_of(self._special), _any_of(self._control)
        # A marked token is the row's own text, and ends no turn.
        self._written = re.compile(f"(?<!{MARKS[0]})(?:{self._control_text.pattern})")

    def spelled_in(self, example: Example) -> bool:
        """Return whether the row's own text spells any special token of the tokenizer."""
        return any(map(self._special_text.search, _texts(example)))

    def must_be_marked(self, example: Example) -> bool:
        """Return whether a conversation spells a control token. Raises DatasetError where it can't be kept apart."""
        texts = _texts(example)
        if not any(map(self._control_text.search, texts)):
            return False
        if any(mark in text for text in texts for mark in MARKS):
            raise DatasetError("a message spells a control token beside the private characters U+F0000 or U+F0001")
        return True

    def mark(self, value: Any) -> Any:
        """Return strings, or lists and dictionaries of them, with each control token between two marks."""
        return mark_control_tokens(value, self._control_text)

    def encode_marked(self, text: str) -> list[int]:
        """Return token ids of a rendered text: marked control tokens as text, the others as what they are."""
        try:
            token_ids: list[int] = encode_marked_chat(self._tokenizer, text)
        except ValueError as error:
            raise DatasetError(f"a message spells a control token that cannot be tokenized as text: {error}") from error
        return token_ids

    def last_in(self, text: str) -> str | None:
        """Return the control token that `text` ends with, if it does."""
        return next((token for token in self._control if text.endswith(token)), None)

    def fixed_beginning(self, text: str) -> str:
        """Return `text` up to its last control token that ends there whatever follows it; "" if there is none."""
        for match in reversed(list(self._control_text.finditer(text))):
            longer = any(token != match[0] and token.startswith(match[0]) for token in self._special)
            if match[0] in self._plainly_found and not longer:
                return text[: match.end()]
        return ""

    def fixed_end(self, text: str) -> str:
        """Return `text` from its first control token on that begins there whatever stands before; "" if there is none.

        No token that begins before it may reach into it.
        """
        for match in self._control_text.finditer(text):
            end = text[match.start() :]
            longer = any(token != match[0] and token.startswith(match[0]) for token in self._added)
            reached = any(end.startswith(token[place:]) for token in self._added for place in range(1, len(token)))
            if match[0] in self._plainly_found and not (longer or reached):
                return end
        return ""

    def first_in(self, text: str, start: int) -> re.Match[str] | None:
        """Return the first control token after `start` that the template wrote."""
        return self._written.search(text, start)

    def length_to_last(self, text: str) -> int:
        """Return how far it is to the end of the last control token that the template wrote; 0 if there is none."""
        return max((match.end() for match in self._written.finditer(text)), default=0)


def without_marks(text: str) -> str:
    """Return the text as the row has it."""
    return text.replace(MARKS[0], "").replace(MARKS[1], "")


def _texts(example: Example) -> list[str]:
    if example.text is not None:
        return [example.text]
    texts = [message.text for message in example.messages]
    if example.tools is not None:
        texts.append(example.tools)
    for message in example.messages:
        if not message.has_only_content:
            texts += filter(None, (message.tool_calls, message.reasoning, message.name, message.tool_call_id))
    return texts


def _longest_first(tokens: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(tokens, key=lambda token: (-len(token), token)))


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, tokens)) or "(?!)")


def _what_the_template_writes(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the template's source with what it makes of a sample: some templates put tokens together from pieces."""
    template = tokenizer.chat_template
    if not template:
        return ""
    sources = list(template.values()) if isinstance(template, dict) else [template]
    for turns in (_SAMPLE, _SAMPLE[1:]):
        try:
            sources.append(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except (TemplateError, TypeError, ValueError):
            continue  # say, a template without system turns
    return "\n".join(sources)
