"""From requests of OpenAI's shape to those of the engine: all the answers that one request asks for."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from api.engine_server.schemas import EchoedPrompt, EngineGenerateRequest, PromptToken, RankedLogprob
from api.errors import Invalid
from api.platform import Platform
from api.routes.openai.fine_tuning.checkpoints import answering
from api.routes.openai.schemas import CompletionTokensDetails, CompletionUsage, GenerationOptions


@dataclass(frozen=True, slots=True)
class Asked:
    """One request with all the answers that it wants, in the order of their indices: those of a prompt together."""

    id: str
    created: int
    model: str
    answers_each: int
    requests: list[EngineGenerateRequest]
    include_usage: bool
    """Whether a stream ends with the token counts."""

    @property
    def no_usage_yet(self) -> dict[str, None]:
        """What a stream's chunks have in the place of the counts that come at its end."""
        return {"usage": None} if self.include_usage else {}

    def head(self, kind: str) -> dict[str, Any]:
        """Return the fields that every answer and chunk begins with."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def usage(
        self, prompt_tokens: Sequence[int], generated_tokens: Sequence[int], reasoning_tokens: int | None = None
    ) -> dict[str, Any]:
        """Return the token counts; `prompt_tokens` and `generated_tokens` go by index.

        `reasoning_tokens` are those of all answers; None: they hold no reasoning that would be told apart.
        """
        prompts = sum(prompt_tokens[:: self.answers_each])
        generated = sum(generated_tokens)
        return CompletionUsage(
            prompt_tokens=prompts,
            completion_tokens=generated,
            total_tokens=prompts + generated,
            completion_tokens_details=None
            if reasoning_tokens is None
            else CompletionTokensDetails(reasoning_tokens=reasoning_tokens),
        ).model_dump(exclude_none=True)


async def ask(
    platform: Platform,
    prefix: str,
    options: GenerationOptions,
    inputs: Sequence[dict[str, Any]],
    max_new_tokens: int | None,
    **settings: Any,
) -> Asked:
    """Return what the engine is to be asked: each of the `inputs` (prompt, ids or messages) `n` times.

    `max_new_tokens` None: as many as the context leaves.

    Raises `Invalid` for more than one request may ask for, and `NotFound`, `Conflict` and `ServiceDown` where the model
    can't answer.
    """
    if max_new_tokens is not None and options.min_tokens > max_new_tokens:
        raise Invalid(f"min_tokens is {options.min_tokens}: it must be from 0 to max_tokens, {max_new_tokens}.")
    # Without a limit of its own an answer has its model's context, as it has with one that is too large.
    platform.generations.require_bounded(len(inputs), options.answers, max_new_tokens or 0, "max_tokens")
    settings["max_new_tokens"] = max_new_tokens

    def prepare() -> list[EngineGenerateRequest]:
        fields = platform.generations.inputs.fields(*answering(platform, options.model))
        return [
            EngineGenerateRequest(**fields, **one, **settings, **options.sampling(), seed=options.seed_of(index))
            for one in inputs
            for index in range(options.answers)
        ]

    requests = await asyncio.to_thread(prepare)
    counts = options.stream_options is not None and options.stream_options.include_usage
    return Asked(f"{prefix}-{uuid4().hex}", int(time.time()), options.model, options.answers, requests, counts)


def prompt_logprobs(prompt: EchoedPrompt, likeliest: int) -> list[dict[str, Any] | None]:
    """Return those of the prompt's tokens in vLLM's shape: by token id, first the token itself."""
    found: list[dict[str, Any] | None] = []
    for token in prompt.tokens:
        entry: dict[str, Any] = {}
        shown: list[PromptToken | RankedLogprob] = [token, *token.top_logprobs[:likeliest]]
        for one in shown:
            entry.setdefault(str(one.id), {"logprob": one.logprob, "rank": one.rank, "decoded_token": one.token})
        found.append(None if token.logprob is None else entry)
    return found
