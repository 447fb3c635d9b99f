"""Log-probabilities of the prompt's own tokens, against transformers' logits, in whatever pieces it is read."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.inference.decoding import StepSize
from tasks.inference.engine import GenerationRequest
from tasks.inference.errors import PromptTooLong
from tests.tasks.inference.conftest import greedy, prompt_ids

STEPS = [None, StepSize(chunk=7, tokens=10), StepSize(chunk=1, tokens=1)]


def expected(request: GenerationRequest):
    """The log-probabilities `[tokens - 1, vocabulary]` of what follows each prompt token."""
    model = AutoModelForCausalLM.from_pretrained(request.model.weights, dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.tensor([request.prompt_ids])).logits[0, :-1].log_softmax(-1)


def require_right(generation, logs):
    following = generation.request.prompt_ids[1:]
    assert len(generation.prompt_logprobs) == len(following)
    for its, row, token_id in zip(generation.prompt_logprobs, logs, following, strict=True):
        assert its.logprob == pytest.approx(float(row[token_id]), abs=1e-5)
        assert its.rank == pytest.approx(int((row > row[token_id]).sum()) + 1, abs=2)  # equal but for rounding
        best = row.topk(generation.request.prompt_logprobs)
        assert list(its.top.values()) == pytest.approx(best.values.tolist(), abs=1e-5)
        if token_id in its.top:
            assert its.top[token_id] == its.logprob


@pytest.mark.parametrize("step", STEPS, ids=str)
@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_they_are_those_of_transformers(make_engine, tiny_models_dir, model, step):
    folder = tiny_models_dir / f"tiny-{model}"
    engine = make_engine(step=step)
    plain = greedy(folder, max_new_tokens=5, ids=prompt_ids(folder) * 4)
    asked = replace(plain, prompt_logprobs=3, logprobs=2)
    generations = [engine.submit(each) for each in (asked, plain, replace(asked, max_new_tokens=0), asked)]
    answers = [generation.result(120) for generation in generations]
    assert answers == [answers[1], answers[1], [], answers[1]]
    assert [generation.finish_reason for generation in generations] == ["length"] * 4
    logs = expected(plain)
    for generation in (generations[0], generations[2], generations[3]):
        require_right(generation, logs)
    assert generations[0].prompt_logprobs == generations[2].prompt_logprobs == generations[3].prompt_logprobs
    assert generations[1].prompt_logprobs == []
    assert len(generations[0].logprobs) == 5


def test_a_prompt_of_one_token_has_none_and_one_that_fills_the_context_has_all(make_engine, tiny_gpt2_dir):
    engine, ids = make_engine(), (prompt_ids(tiny_gpt2_dir) * 40)[:128]
    one = engine.submit(greedy(tiny_gpt2_dir, ids=ids[:1], max_new_tokens=0, prompt_logprobs=0))
    assert (one.result(120), one.prompt_logprobs, one.finish_reason) == ([], [], "length")
    filled = engine.submit(greedy(tiny_gpt2_dir, ids=ids, max_new_tokens=0, prompt_logprobs=1))
    filled.result(120)
    require_right(filled, expected(filled.request))
    with pytest.raises(PromptTooLong):
        engine.submit(greedy(tiny_gpt2_dir, ids=ids, max_new_tokens=1, prompt_logprobs=1))
    with pytest.raises(PromptTooLong):
        engine.submit(greedy(tiny_gpt2_dir, ids=[*ids, 1], max_new_tokens=0))


def test_without_new_tokens_and_log_probabilities_the_answer_is_empty(make_engine, tiny_llama_dir):
    generation = make_engine().submit(greedy(tiny_llama_dir, max_new_tokens=0))
    assert (generation.result(120), generation.finish_reason) == ([], "length")


def test_the_token_that_ends_the_answer_is_known(make_engine, tiny_llama_dir):
    engine, free = make_engine(), greedy(tiny_llama_dir, prompt_logprobs=1, logprobs=1)
    end = engine.generate(free)[0]
    ended = engine.submit(replace(free, eos_token_ids={end}))
    assert (ended.result(120), ended.finish_reason) == ([], "stop")
    token_id, its = ended.ended_by
    assert token_id == end
    assert its.top == {end: its.logprob}
