"""Continuous batching: who reads how much in a step, room in the arena, log-probabilities, and a soak of it all."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.inference.base import BasePlan, LoadedBase
from tasks.inference.decoding import StepSize, decode_step, schedule
from tasks.inference.engine import Generation
from tasks.inference.errors import RequestTooLarge
from tasks.inference.sequences import GeneratingSequence
from tests.tasks.inference.conftest import greedy, prompt_ids, reference
from tests.tasks.inference.test_engine import ENDLESS, wait_until

TOKEN_BYTES = 256
"""Keys and values of one token of the tiny Llama in float32."""
SIZE = StepSize(chunk=16, tokens=40)


@pytest.fixture
def base(tiny_llama_dir):
    plan = BasePlan(vocabulary=400, weight_bytes=0, cache_bytes=2000 * TOKEN_BYTES, cache_tokens=2000)
    return LoadedBase(tiny_llama_dir, plan, torch.float32, torch.device("cpu"))


def start(base, request):
    generation = Generation(request, request.max_new_tokens, lambda: None, None, 60.0)
    room = base.allocator.reserve(len(request.prompt_ids) + request.max_new_tokens)
    return GeneratingSequence(generation, base, room)


def refuse(_sequence, outcome):
    raise AssertionError(f"ended with {outcome}")


def test_answers_go_on_in_every_step_while_a_long_prompt_is_read(base, tiny_llama_dir):
    short = start(base, greedy(tiny_llama_dir, max_new_tokens=100))
    decode_step(base, [short], SIZE, refuse)
    long = start(base, greedy(tiny_llama_dir, max_new_tokens=20, ids=prompt_ids(tiny_llama_dir) * 12))
    prompt = len(long.generation.request.prompt_ids)
    assert prompt > 4 * SIZE.chunk
    steps = 0
    while not long.generation.tokens:
        before = len(short.generation.tokens), long.cached
        decode_step(base, [short, long], SIZE, refuse)
        steps += 1
        assert len(short.generation.tokens) == before[0] + 1
        assert long.cached - before[1] <= SIZE.chunk
    assert steps == -(-prompt // SIZE.chunk)


def test_a_step_reads_prompts_in_turn_and_only_so_many_tokens(base, tiny_llama_dir):
    ids = prompt_ids(tiny_llama_dir)
    prompts = [start(base, greedy(tiny_llama_dir, ids=(ids * 9)[:length])) for length in (16, 20, 16, 3)]
    assert schedule(prompts, SIZE) == [(prompts[0], 16), (prompts[1], 16)]
    decode_step(base, prompts, SIZE, refuse)
    assert schedule(prompts, SIZE) == [(prompts[0], 1), (prompts[1], 4), (prompts[2], 16), (prompts[3], 3)]
    (alone,) = schedule([start(base, greedy(tiny_llama_dir, ids=ids * 9))], StepSize(chunk=16, tokens=8))
    assert alone[1] == 16  # a step smaller than a chunk still gets on


def test_prompts_with_log_probabilities_are_scored_a_chunk_at_a_time(base, tiny_llama_dir):
    ids = prompt_ids(tiny_llama_dir) * 9

    def counts(*lengths, plain=0):
        requests = [greedy(tiny_llama_dir, ids=ids[:length], prompt_logprobs=1) for length in lengths]
        requests += [greedy(tiny_llama_dir, ids=ids[:plain])] if plain else []
        size = StepSize(chunk=16, tokens=64)
        return [count for _, count in schedule([start(base, request) for request in requests], size)]

    assert counts(16, 16, 16) == [16]
    assert counts(5, 9, 4) == [5, 9]
    assert counts(16, plain=16) == [16, 16]


def test_a_request_waits_for_room_and_none_overtakes_it(make_engine, endless_llama_dir):
    ids = prompt_ids(endless_llama_dir)
    engine = make_engine(kv_cache_bytes=(len(ids) + ENDLESS + 20) * TOKEN_BYTES)
    running = engine.submit(greedy(endless_llama_dir, max_new_tokens=ENDLESS))
    next(iter(running))
    large = engine.submit(greedy(endless_llama_dir, max_new_tokens=100))
    small = engine.submit(greedy(endless_llama_dir, max_new_tokens=2))
    (model,) = engine.stats().models
    assert (model.running, model.waiting, model.cache_tokens_used) == (1, 2, len(ids) + ENDLESS)
    running.cancel()
    assert (len(large.result(20)), len(small.result(20))) == (100, 2)
    assert len(running.result()) < ENDLESS
    with pytest.raises(RequestTooLarge, match=rf"{len(ids) + ENDLESS + 45} tokens.* {model.cache_tokens} of"):
        engine.submit(greedy(endless_llama_dir, max_new_tokens=ENDLESS + 45))


def test_log_probabilities_come_with_the_tokens(make_engine, tiny_llama_dir):
    request = greedy(tiny_llama_dir, max_new_tokens=5, logprobs=3)
    engine = make_engine()
    others = [engine.submit(greedy(tiny_llama_dir, logprobs=count)) for count in (None, 0)]
    generation = engine.submit(request)
    tokens = generation.result(10)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    with torch.inference_mode():
        logs = model(torch.tensor([request.prompt_ids + tokens])).logits[0].log_softmax(-1)
    for its, token, row in zip(generation.logprobs, tokens, logs[len(request.prompt_ids) - 1 :], strict=False):
        assert its.logprob == pytest.approx(float(row[token]), abs=1e-4)
        values, ids = row.topk(3)
        assert list(its.top) == ids.tolist()
        assert list(its.top.values()) == pytest.approx(values.tolist(), abs=1e-4)
    assert len(generation.logprobs) == 5
    assert [len(other.logprobs) for other in others if other.result(10)] == [0, 20]
    assert others[1].logprobs[0].top == {}


def test_a_soak_of_joins_leaves_cancels_and_adapters(make_engine, tiny_llama_dir, adapters_dir):
    ids = prompt_ids(tiny_llama_dir) * 6
    kinds = [
        greedy(tiny_llama_dir, adapter, count, ids=ids[:length])
        for adapter in (None, adapters_dir / "llama-1", adapters_dir / "llama-2")
        for count, length in ((2, 30), (25, 1), (60, 5))
    ]
    expected = [reference(kind) for kind in kinds]
    dice = random.Random(3)
    engine = make_engine(kv_cache_bytes=300 * TOKEN_BYTES, step=StepSize(chunk=8, tokens=16))
    begun, whole = [], 0
    for _ in range(120):
        index = dice.randrange(len(kinds))
        begun.append((index, engine.submit(kinds[index])))
        if dice.random() < 0.3:
            dice.choice(begun)[1].cancel()
        if dice.random() < 0.2:
            dice.choice(begun)[1].result(20)
    for index, generation in begun:
        tokens = generation.result(20)
        if generation.finish_reason == "cancelled":
            assert tokens == expected[index][: len(tokens)]
        else:
            assert tokens == expected[index]
            whole += 1
    assert 60 < whole < 120
    wait_until(lambda: engine.stats().running == 0)
    (model,) = engine.stats().models
    assert (model.cache_tokens_used, model.waiting, model.cache_tokens) == (0, 0, 300)
    assert len(model.adapters) == 2
