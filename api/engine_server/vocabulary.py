"""What is known of a model's tokenizer: ends of text, chat format, names of tokens; and how inputs become ids."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from llguidance import LLTokenizer
from transformers import PreTrainedTokenizerBase

from api.engine_server.schemas import (
    EngineConversation,
    EngineInput,
)
from configs.chat_format import ChatFormat
from tasks.data.chosen_format import choose_format, use_template
from tasks.data.examples import DatasetError, canonical_json
from tasks.data.generation_prompt import GenerationPrompt, GenerationPrompts
from tasks.data.reading.turns import read_turns
from tasks.data.template import PromptEnding
from tasks.inference.constraint import constraint_tokenizer
from tasks.inference.errors import EmptyPrompt, InvalidRequest
from tasks.models.endings import answer_end_ids
from tasks.models.loading import load_tokenizer


class Vocabulary:
    """What is known of a model's tokenizer, made once: ends of text, chat format, and on demand the tokens' bytes."""

    def __init__(self, weights: Path, trained_template: str | None = None, chosen: str | None = None) -> None:
        """With the template that an adapter was trained with, or else a format (JSON) chosen for the base model."""
        self.tokenizer = load_tokenizer(weights)
        if trained_template is not None:
            use_template(self.tokenizer, trained_template)
        elif chosen is not None:
            choose_format(self.tokenizer, ChatFormat.model_validate_json(chosen))
        self.ends = frozenset(answer_end_ids(weights, self.tokenizer))

    @cached_property
    def prompts(self) -> GenerationPrompts:
        """Renders conversations as the model was trained to read them."""
        return GenerationPrompts(self.tokenizer)

    @cached_property
    def for_constraints(self) -> LLTokenizer:
        """What constraints need, and what knows the bytes of each token; raises `SchemaError` for a slow tokenizer."""
        return constraint_tokenizer(self.tokenizer, self.ends)

    def named(self, token_ids: Iterable[int]) -> dict[int, tuple[str, bytes]]:
        """Return each token's name, as clients read it, and its bytes; no two have the same name.

        That is its text. A piece of a character is `bytes:` and its bytes, as in OpenAI's API; a token whose text
        another one has already, `token_id:` and its id, as in vLLM's.
        """
        named: dict[int, tuple[str, bytes]] = {}
        taken: set[str] = set()
        for token_id in dict.fromkeys(token_ids):
            content = self.for_constraints.decode_bytes([token_id])
            try:
                name = content.decode()
            except UnicodeDecodeError:
                name = "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
            if name in taken:
                name = f"token_id:{token_id}"
            taken.add(name)
            named[token_id] = name, content
        return named

    def input_ids(self, request: EngineInput) -> list[int]:
        """Return the ids of a text; raises `EmptyPrompt`."""
        return request.prompt_ids or _prompt_ids(self.tokenizer, request.prompt or "")

    def rendered(self, request: EngineConversation) -> GenerationPrompt:
        """Return a conversation that is to be answered; raises `InvalidRequest` if it can't be rendered."""
        try:
            tools = canonical_json(request.tools) if request.tools else None
            return self.prompts.prompt(
                read_turns(request.messages, "messages"), tools, request.chat_template_kwargs or {}, _ending(request)
            )
        except DatasetError as error:
            raise InvalidRequest(str(error)) from error


def _ending(request: EngineConversation) -> PromptEnding:
    if request.continue_final_message:
        return "continued"
    return "answer" if request.add_generation_prompt else "closed"


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Return the prompt's ids as transformers makes them by default; an empty prompt is its first token."""
    ids: list[int] = tokenizer(prompt, verbose=False)["input_ids"]
    if ids:
        return ids
    for beginning in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(beginning, int):
            return [beginning]
    raise EmptyPrompt
