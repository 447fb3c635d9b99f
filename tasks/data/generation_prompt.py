"""The generation prompt of a conversation: the same tokens that preceded the answer in training."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedTokenizerBase

from tasks.data.examples import Message
from tasks.data.template import PromptEnding, Renderer
from tasks.data.tokenizing import Encoder


class GenerationPrompts:
    """Renders conversations in a tokenizer's chat format, up to the beginning of the assistant's turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._renderer = Renderer(tokenizer)
        self._encoder = Encoder(tokenizer)

    def token_ids(
        self,
        messages: Sequence[Message],
        tools: str | None = None,
        arguments: Mapping[str, Any] = MappingProxyType({}),
        ending: PromptEnding = "answer",
    ) -> list[int]:
        """Return the ids of the text before the answer; control tokens that a message spells are text in it.

        `tools` are those of `Example`, `arguments` what the chat template is given besides. Raises DatasetError if the
        chat template can't render the messages.
        """
        prompt = self._renderer.prompt(messages, tools, arguments, ending)
        token_ids: list[int] = self._encoder.encode([prompt]).token_ids.tolist()
        return token_ids
