"""The engine against transformers' own generate, single and batched; its limits, cancels and failures."""

import shutil
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from tasks.inference.decoding import StepSize
from tasks.inference.engine import GenerationRequest, ModelRef
from tasks.inference.errors import EngineBusy, EngineClosed, PromptTooLong
from tasks.inference.listener import STARTED
from tasks.models.errors import WeightsError
from tasks.models.loading import end_token_ids, load_tokenizer
from tests.tasks.inference.conftest import greedy, prompt_ids, reference

LONG = 200
ENDLESS = 5000
"""More tokens than there is time for; only `endless_llama_dir` has room for them."""


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@pytest.mark.parametrize("adapter", [None, "1"])
@pytest.mark.parametrize("model", ["llama", "gpt2"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_equals_transformers(make_engine, tiny_models_dir, adapters_dir, model, adapter, penalty):
    weights = tiny_models_dir / f"tiny-{model}"
    request = greedy(weights, adapter and adapters_dir / f"{model}-{adapter}", 40, repetition_penalty=penalty)
    assert make_engine().generate(request) == reference(request)


OPTIONS: list[dict[str, Any]] = [
    {"frequency_penalty": 1.5},
    {"frequency_penalty": -0.5, "repetition_penalty": 3.0},
    {"presence_penalty": 2.0},
    {"presence_penalty": 0.7, "frequency_penalty": 0.3, "repetition_penalty": 1.1},
    {"logit_bias": {7: 100.0}},
    {"logit_bias": {70: 3.0, 71: -4.5, 72: 2.5}, "presence_penalty": 1.0},
    {"eos_token_ids": {77, 78, 79}, "min_new_tokens": 12},
    {"stop_token_ids": {77, 78, 79}, "min_new_tokens": 3, "logit_bias": {78: 6.0}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_changes_the_logits_equals_transformers(make_engine, tiny_llama_dir, options):
    request = greedy(tiny_llama_dir, None, 30, **options)
    generation = make_engine().submit(request)
    answer, expected = generation.result(120), reference(request)
    if generation.finish_reason == "stop":
        assert expected.pop() in request.end_ids
    assert answer == expected
    assert answer != reference(greedy(tiny_llama_dir, None, 30)) or "min_new_tokens" in options


def test_rows_with_and_without_options_do_not_change_each_other(make_engine, tiny_llama_dir):
    engine = make_engine()
    requests = [greedy(tiny_llama_dir, None, 30, **options) for options in [*OPTIONS, {}]]
    requests += [replace(request, temperature=1.0, seed=5) for request in requests]
    single = [engine.generate(request) for request in requests]
    assert [one.result(120) for one in [engine.submit(request) for request in requests]] == single


@pytest.mark.parametrize("by", ["eos_token_ids", "stop_token_ids"])
def test_what_ends_an_answer_and_what_is_ignored(make_engine, tiny_llama_dir, by):
    engine, free = make_engine(), greedy(tiny_llama_dir)
    answer = engine.generate(free)
    end, at = answer[10], answer.index(answer[10])
    options: dict[str, Any] = {by: [end]}
    ended = engine.submit(replace(free, **options))
    assert (ended.result(120), ended.finish_reason) == (answer[:at], "stop")
    ignored = engine.submit(replace(free, **options, ignore_eos=True))
    assert ignored.result(120) == (answer if by == "eos_token_ids" else answer[:at])
    late = engine.generate(replace(free, **options, min_new_tokens=at + 1))
    assert len(late) > at
    assert late[at] != end


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"logit_bias": {100_000: 1.0}}, "logit_bias holds the id 100000"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias holds the id -1"),
        ({"stop_token_ids": [3, 100_000]}, "stop_token_ids holds the id 100000"),
        ({"logit_bias": {1: 101.0}}, "logit_bias of 1 is 101.0"),
        ({"logit_bias": {1: float("nan")}}, "logit_bias of 1 is nan"),
        ({"frequency_penalty": 2.1}, "frequency_penalty is 2.1"),
        ({"presence_penalty": -2.1}, "presence_penalty is -2.1"),
        ({"min_new_tokens": 21}, "min_new_tokens is 21"),
    ],
)
def test_options_without_meaning_are_refused_by_name(make_engine, tiny_llama_dir, options, named):
    engine = make_engine()
    with pytest.raises(ValueError, match=named):
        engine.submit(greedy(tiny_llama_dir, **options))


def test_a_prompt_read_in_pieces_gives_the_same_answer(make_engine, tiny_llama_dir):
    request = greedy(tiny_llama_dir, ids=prompt_ids(tiny_llama_dir) * 4)
    assert make_engine(step=StepSize(chunk=7, tokens=10)).generate(request) == reference(request)


def test_the_end_token_ends_the_answer_and_is_not_part_of_it(make_engine, tiny_llama_dir):
    engine = make_engine()
    free = greedy(tiny_llama_dir)
    answer = engine.generate(free)
    end = answer[-1]
    ended = replace(free, eos_token_ids={end})
    generation = engine.submit(ended)
    assert generation.result(10) == answer[: answer.index(end)]
    assert generation.finish_reason == "stop"
    assert [*generation.tokens, end] == reference(ended)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_seed_decides_the_answer_whatever_else_runs(make_engine, tiny_llama_dir, adapters_dir, dtype):
    engine = make_engine(dtype=dtype)
    ids = prompt_ids(tiny_llama_dir)

    def seeded(seed, adapter=None):
        return GenerationRequest(ModelRef(tiny_llama_dir, adapter), ids, 40, temperature=1.0, top_p=0.95, seed=seed)

    alone = engine.generate(seeded(11))
    others = [engine.submit(seeded(seed, adapters_dir / "llama-1" if seed % 2 else None)) for seed in range(6)]
    crowded = engine.submit(seeded(11))
    assert crowded.result(20) == alone
    answers = [other.result(20) for other in others]
    assert len({tuple(answer) for answer in [*answers, alone]}) == 7
    unseeded = {tuple(engine.generate(replace(seeded(11), seed=None))) for _ in range(2)}
    assert len(unseeded) == 2


def test_base_and_two_adapters_at_the_same_time(make_engine, tiny_llama_dir, adapters_dir):
    engine = make_engine()
    kinds = [None, adapters_dir / "llama-1", adapters_dir / "llama-2"]
    requests = [greedy(tiny_llama_dir, adapter, 30) for adapter in kinds]
    expected = [reference(request) for request in requests]
    assert len({tuple(answer) for answer in expected}) == 3
    generations = [engine.submit(requests[index % 3]) for index in range(12)]
    assert [generation.result(30) for generation in generations] == expected * 4
    (model,) = engine.stats().models
    assert model.adapters == [str(kinds[1]), str(kinds[2])]


def test_a_short_request_overtakes_a_long_one(make_engine, endless_llama_dir):
    engine = make_engine()
    long = engine.submit(greedy(endless_llama_dir, max_new_tokens=ENDLESS))
    next(iter(long))
    engine.generate(greedy(endless_llama_dir, max_new_tokens=3))
    assert not long.done
    long.cancel()


def test_cancelling_frees_the_slot(make_engine, endless_llama_dir):
    engine = make_engine(concurrency=1)
    running = engine.submit(greedy(endless_llama_dir, max_new_tokens=ENDLESS))
    next(iter(running))
    waiting = engine.submit(greedy(endless_llama_dir, max_new_tokens=ENDLESS))
    after = engine.submit(greedy(endless_llama_dir, max_new_tokens=3))
    assert (engine.stats().running, engine.stats().waiting) == (1, 2)
    waiting.cancel()
    running.cancel()
    produced = len(running.tokens)
    assert len(after.result(10)) == 3
    assert (running.finish_reason, waiting.finish_reason) == ("cancelled", "cancelled")
    assert len(running.result()) <= produced + 1 < ENDLESS
    assert waiting.result() == []


def test_a_full_queue_refuses_more(make_engine, endless_llama_dir):
    engine = make_engine(concurrency=1, queue_length=2)
    taken = [engine.submit(greedy(endless_llama_dir, max_new_tokens=ENDLESS)) for _ in range(3)]
    with pytest.raises(EngineBusy):
        engine.submit(greedy(endless_llama_dir))
    for generation in taken:
        generation.cancel()
    wait_until(lambda: engine.stats().running + engine.stats().waiting == 0)
    assert engine.generate(greedy(endless_llama_dir, max_new_tokens=2))


def test_the_context_is_the_limit(make_engine, tiny_gpt2_dir):
    engine = make_engine()
    with pytest.raises(PromptTooLong, match=r"130 tokens.*128"):
        engine.submit(greedy(tiny_gpt2_dir, ids=[1] * 130))
    with pytest.raises(PromptTooLong):
        engine.submit(greedy(tiny_gpt2_dir, ids=[1] * 128))
    generation = engine.submit(greedy(tiny_gpt2_dir, max_new_tokens=1000, ids=[1] * 120))
    assert len(generation.result(10)) == 8
    assert generation.finish_reason == "length"


def test_a_failure_to_load_is_the_requests_own(make_engine, tiny_llama_dir, adapters_dir, tmp_path):
    engine = make_engine()
    damaged = shutil.copytree(tiny_llama_dir, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="damaged"):
        engine.submit(greedy(damaged)).result(10)
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        engine.submit(greedy(tmp_path / "absent", ids=[1]))
    running = engine.submit(greedy(tiny_llama_dir, max_new_tokens=60))
    for adapter in (tmp_path / "absent", adapters_dir / "gpt2-1"):
        with pytest.raises(WeightsError):
            engine.submit(greedy(tiny_llama_dir, adapter)).result(10)
    assert running.result(10) == reference(running.request)
    assert engine.generate(greedy(tiny_llama_dir, adapters_dir / "llama-1", 5))


def test_ids_outside_the_vocabulary_are_refused(make_engine, tiny_llama_dir):
    with pytest.raises(ValueError, match="vocabulary"):
        make_engine().submit(greedy(tiny_llama_dir, ids=[1_000_000]))


def test_a_listener_hears_every_token_and_the_end(make_engine, tiny_llama_dir):
    heard: list[int | None] = []
    over = threading.Event()

    def listen(token_id):
        heard.append(token_id)
        if token_id is None:
            over.set()

    generation = make_engine().submit(greedy(tiny_llama_dir), listen)
    assert over.wait(10)
    assert heard == [STARTED, *generation.result(), None] == [STARTED, *list(generation), None]


def test_closing_cancels_and_refuses(make_engine, endless_llama_dir):
    engine = make_engine()
    generation = engine.submit(greedy(endless_llama_dir, max_new_tokens=ENDLESS))
    next(iter(generation))
    assert engine.close()
    assert generation.finish_reason == "cancelled"
    with pytest.raises(EngineClosed):
        engine.submit(greedy(endless_llama_dir))


def test_the_models_own_end_tokens(make_engine, tiny_llama_dir):
    request = greedy(tiny_llama_dir, eos_token_ids=end_token_ids(tiny_llama_dir, load_tokenizer(tiny_llama_dir)))
    answer = make_engine().generate(request)
    assert reference(request)[: len(answer)] == answer
