"""The generation prompt of a conversation: the same tokens that preceded the answer in training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedTokenizerBase

from tasks.data.examples import Message
from tasks.data.template import PromptEnding
from tasks.data.tokenizing import Encoder
from tasks.data.tool_forms import ToolRenderer


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
        self._renderer = ToolRenderer(tokenizer)
        self._encoder = Encoder(tokenizer)

    def template(self, *, with_tools: bool) -> str:
        """Return the source of the chat template that conversations are written with; "" if there is none."""
        return self._renderer.template(with_tools=with_tools)

    @property
    def writes_tools(self) -> bool:
        """Whether the chat template has a place for tools."""
        return self._renderer.writes_tools

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
        rendered, is_in_words = self._renderer.prompt(messages, tools, arguments, ending)
        token_ids: list[int] = self._encoder.encode([rendered]).token_ids.tolist()
        return GenerationPrompt(token_ids, rendered.text, is_in_words)
