"""Greedy responses to many prompts, batched by length."""

from collections.abc import Callable, Sequence
from itertools import takewhile

import torch
from transformers import PreTrainedModel

from tasks.metrics.errors import MetricError
from tasks.models.loading import length_switch

BATCH_SIZE = 16


def generate_responses(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    pad_token_id: int,
    end_token_ids: frozenset[int],
    context_length: int,
    on_generated: Callable[[int], None] = lambda _: None,
) -> list[list[int]]:
    """Return the new token ids for each prompt (token ids), without the end token, in the prompts' order.

    `on_generated` is called after each batch with the number of prompts answered.
    Raises MetricError if a prompt and `max_new_tokens` more are longer than the model's context (`prompt_fits`): half
    a prompt is another question.
    """
    longest = max(map(len, prompts), default=0)
    if not prompt_fits(longest, max_new_tokens, context_length):
        raise MetricError(
            f"a prompt of {longest} tokens leaves no room for {max_new_tokens} more in the model's context of "
            f"{context_length}; leave it out, or lower max_new_tokens"
        )
    started = [list(prompt) or [pad_token_id] for prompt in prompts]
    order = sorted(range(len(started)), key=lambda index: (-len(started[index]), index))
    responses: list[list[int]] = [[] for _ in started]
    # With padding, transformers takes a text for longer than it is, and rotates its positions otherwise too early.
    at_once = BATCH_SIZE if length_switch(model.config) is None else 1
    for start in range(0, len(order), at_once):
        rows = order[start : start + at_once]
        batch = _batch(model, [started[index] for index in rows], max_new_tokens, pad_token_id, end_token_ids)
        for index, tokens in zip(rows, batch, strict=True):
            responses[index] = list(takewhile(lambda token: token not in end_token_ids, tokens))
        on_generated(start + len(rows))
    return responses


def prompt_fits(prompt_length: int, max_new_tokens: int, context_length: int) -> bool:
    """Return whether so many new tokens fit behind a prompt; all in tokens. An empty prompt takes one."""
    return max(prompt_length, 1) + max_new_tokens <= context_length


def _batch(
    model: PreTrainedModel,
    prompts: list[list[int]],
    max_new_tokens: int,
    pad_token_id: int,
    end_token_ids: frozenset[int],
) -> list[list[int]]:
    """Return (batch, up to max_new_tokens) new ids; prompts are padded on the left, where the mask hides it."""
    longest = max(map(len, prompts))
    input_ids = torch.full((len(prompts), longest), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for place, prompt in enumerate(prompts):
        input_ids[place, longest - len(prompt) :] = torch.tensor(prompt)
        attention_mask[place, longest - len(prompt) :] = 1
    with torch.inference_mode():
        output = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad_token_id,
            eos_token_id=sorted(end_token_ids) or None,
            # Greedy: a checkpoint's own sampling settings would only draw a warning.
            temperature=None,
            top_p=None,
            top_k=None,
        )
    new_tokens: list[list[int]] = output[:, longest:].tolist()
    return new_tokens
