"""The generation prompt of a conversation: the same tokens that preceded the answer in training."""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from tasks.data.examples import Example, Message
from tasks.data.template import Renderer
from tasks.data.tokenizing import Encoder

ANY_ANSWER = Message("assistant", "a")


class GenerationPrompts:
    """Renders conversations in a tokenizer's chat format, up to the beginning of the assistant's turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._renderer = Renderer(tokenizer)
        self._encoder = Encoder(tokenizer)

    def token_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of the text before the answer; control tokens that a message spells are text in it.

        Raises DatasetError if the chat template can't render the messages.
        """
        before = [replace(message, learned=False) for message in messages]
        rendered = self._renderer.render(Example((*before, ANY_ANSWER)))
        batch = self._encoder.encode([rendered])
        answer_start, _ = batch.spans[-1].tolist()
        token_ids: list[int] = batch.token_ids[:answer_start].tolist()
        return token_ids
