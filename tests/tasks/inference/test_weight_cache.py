"""The weight cache: LRU eviction within the memory budget, and requests that can never fit."""

import gc
import shutil
import time
from functools import partial

import pytest
import torch

from tasks.inference.errors import RequestTooLarge, TooLargeForMemory
from tasks.inference.network.load import needed_for_adapter, needed_for_base
from tests.tasks.inference.conftest import greedy, reference
from tests.tasks.inference.test_engine import LONG, wait_until

CPU = torch.device("cpu")
ARENA = 390 * 256
"""Bytes of an arena for 390 tokens of the tiny Llama."""


def size(folder):
    """Bytes of a base and its arena."""
    return needed_for_base(folder, torch.float32, CPU) + ARENA


@pytest.fixture
def make_engine(make_engine):
    return partial(make_engine, kv_cache_bytes=ARENA)


def loaded(engine):
    return [model.weights.rsplit("/", 1)[-1] for model in engine.stats().models if model.loaded]


@pytest.fixture
def three(tiny_llama_dir, tmp_path):
    """Three bases of the same size."""
    return [shutil.copytree(tiny_llama_dir, tmp_path / name) for name in "abc"]


def test_the_least_recently_used_base_is_evicted(make_engine, three):
    a, b, c = three
    engine = make_engine(budget=int(size(a) * 2.5))
    for folder in (a, b, a, c):
        engine.generate(greedy(folder, max_new_tokens=2))
    assert loaded(engine) == ["a", "c"]
    assert engine.stats().bytes == 2 * size(a)
    assert engine.generate(greedy(b)) == reference(greedy(b))
    assert loaded(engine) == ["c", "b"]
    wait_until(lambda: len(engine.stats().models) == 2)


def test_a_running_base_stays_and_the_request_waits(make_engine, three):
    a, b, _ = three
    engine = make_engine(budget=int(size(a) * 1.5))
    running = engine.submit(greedy(a, max_new_tokens=LONG))
    next(iter(running))
    waiting = engine.submit(greedy(b, max_new_tokens=3))
    dropped = engine.submit(greedy(b, max_new_tokens=3))
    dropped.cancel()
    assert dropped.result(10) == []
    assert loaded(engine) == ["a"]
    assert len(waiting.result(30)) == 3
    assert running.done
    assert running.finish_reason == "length"
    assert loaded(engine) == ["b"]


def test_many_bases_share_a_budget_of_one_without_starvation(make_engine, three, adapters_dir):
    a = three[0]
    engine = make_engine(budget=int(size(a) * 1.6))
    requests = [greedy(folder, adapter, 4) for folder in three for adapter in (None, adapters_dir / "llama-1")] * 3
    generations = [engine.submit(request) for request in requests]
    assert [len(generation.result(60)) for generation in generations] == [4] * 18
    assert engine.stats().bytes <= engine.stats().budget_bytes


def test_idle_adapters_are_evicted_before_a_busy_base_grows_too_large(make_engine, tiny_llama_dir, adapters_dir):
    one, two = adapters_dir / "llama-1", adapters_dir / "llama-2"
    room = needed_for_adapter(tiny_llama_dir, one, torch.float32, CPU)
    engine = make_engine(budget=size(tiny_llama_dir) - ARENA + 2 * room, kv_cache_bytes=room)
    running = engine.submit(greedy(tiny_llama_dir, max_new_tokens=150))
    for adapter in (one, two, one):
        request = greedy(tiny_llama_dir, adapter, 10)
        assert engine.generate(request) == reference(request)
        (model,) = engine.stats().models
        assert model.adapters == [str(adapter)]
        assert model.bytes <= engine.stats().budget_bytes
    assert running.result(30) == reference(running.request)


def test_bytes_held_are_those_of_the_tensors(make_engine, tiny_llama_dir, adapters_dir):
    engine = make_engine()
    engine.generate(greedy(tiny_llama_dir, adapters_dir / "llama-1", 2))
    expected = size(tiny_llama_dir) + needed_for_adapter(tiny_llama_dir, adapters_dir / "llama-1", torch.float32, CPU)
    assert engine.stats().bytes == expected


def test_what_never_fits_is_refused(make_engine, tiny_llama_dir, adapters_dir):
    weights = size(tiny_llama_dir) - ARENA
    engine = make_engine(budget=weights - 1)
    with pytest.raises(TooLargeForMemory, match="raise engine_memory_budget_gb"):
        engine.generate(greedy(tiny_llama_dir))
    engine = make_engine(budget=weights + 20_000)
    assert engine.generate(greedy(tiny_llama_dir, max_new_tokens=2))
    with pytest.raises(RequestTooLarge, match="raise engine_kv_cache_gb"):
        engine.generate(greedy(tiny_llama_dir, max_new_tokens=100))
    with pytest.raises(TooLargeForMemory, match="raise engine_memory_budget_gb"):
        engine.generate(greedy(tiny_llama_dir, adapters_dir / "llama-1", 2))


def test_an_evicted_model_leaves_memory(make_engine, three):
    engine = make_engine(budget=int(size(three[0]) * 1.5))
    for folder in three:
        engine.generate(greedy(folder, max_new_tokens=2))
    deadline = time.monotonic() + 10
    while True:
        gc.collect()
        alive = sum(type(thing).__name__ == "LoadedBase" for thing in gc.get_objects())
        if alive == 1 or time.monotonic() > deadline:
            break
    assert alive == 1
