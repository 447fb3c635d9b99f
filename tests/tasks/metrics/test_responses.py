"""Batched greedy responses equal those of transformers' `generate`, one prompt at a time."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.metrics.errors import MetricError
from tasks.metrics.responses import BATCH_SIZE, generate_responses


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_batching_and_padding_change_nothing(tiny_models_dir, name):
    model = AutoModelForCausalLM.from_pretrained(tiny_models_dir / name).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_models_dir / name)
    texts = [f"{'What does it do? ' * (i % 5)}number {i}" for i in range(BATCH_SIZE + 3)]
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    told: list[int] = []
    responses = generate_responses(
        model,
        prompts,
        6,
        pad_token_id=0,
        end_token_ids=frozenset({tokenizer.eos_token_id}),
        context_length=128,
        on_generated=told.append,
    )
    assert told == [BATCH_SIZE, BATCH_SIZE + 3]
    for prompt, response in zip(prompts, responses, strict=True):
        ids = torch.tensor([prompt])
        alone = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0
        )
        assert response == alone[0, len(prompt) :].tolist()


def test_responses_end_before_the_end_token_and_no_prompt_is_cut(tiny_llama_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    prompt = tokenizer("The quick brown fox")["input_ids"]
    settings: dict[str, Any] = {"pad_token_id": 0, "context_length": 256}
    (free,) = generate_responses(model, [prompt], 8, end_token_ids=frozenset(), **settings)
    assert len(free) == 8
    end = free[3]
    (ended,) = generate_responses(model, [prompt], 8, end_token_ids=frozenset({end}), **settings)
    assert ended == free[: free.index(end)]
    long = (prompt * 100)[:248]
    (whole,) = generate_responses(model, [long], 8, end_token_ids=frozenset(), **settings)
    assert len(whole) == 8
    with pytest.raises(MetricError, match="a prompt of 249 tokens leaves no room for 8 more in the model's context"):
        generate_responses(model, [prompt, [*long, 5]], 8, end_token_ids=frozenset(), **settings)
