"""No starvation: models of a base take turns, bases are evicted for one another, a request has a time limit."""

import shutil
import time
from itertools import cycle
from pathlib import Path

import pytest

from tasks.inference.engine import Generation
from tasks.inference.errors import RequestTimedOut
from tasks.inference.queue import FairQueue
from tests.tasks.inference.conftest import greedy
from tests.tasks.inference.test_engine import ENDLESS, wait_until
from tests.tasks.inference.test_weight_cache import ARENA, loaded, size

IN_FLIGHT = 6
BASE, A, B = Path("base"), Path("a"), Path("b")


class Stream:
    """An endless stream of requests: some are always in flight, so that their base is never idle."""

    def __init__(self, engine, *requests):
        self.engine, self.requests = engine, cycle(requests)
        self.generations = [engine.submit(next(self.requests)) for _ in range(IN_FLIGHT)]

    def go_on_until(self, condition, timeout=60.0):
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline
            if sum(not generation.done for generation in self.generations[-IN_FLIGHT:]) < IN_FLIGHT:
                self.generations.append(self.engine.submit(next(self.requests)))


def queue_of(*adapters):
    queue = FairQueue()
    for adapter in adapters:
        queue.append(Generation(greedy(BASE, adapter, ids=[1]), 1, lambda: None, None, 60.0))
    return queue


def in_turn(queue, running=()):
    """The models in the order in which they run, if none of them ends."""
    running = list(running)
    before = len(running)
    while (generation := queue.next(running)) is not None:
        queue.remove(generation)
        running.append(generation.model.adapter)
    return running[before:]


@pytest.mark.parametrize(
    ("waiting", "running", "order"),
    [
        ([A, A, A, B, None], [], [A, B, None, A, A]),
        ([A, A, B, B], [A, A], [B, B, A, A]),
        ([A, B, A, B], [], [A, B, A, B]),
        ([], [A], []),
    ],
)
def test_the_model_with_the_fewest_running_requests_is_next(waiting, running, order):
    assert in_turn(queue_of(*waiting), running) == order


def test_the_next_request_stays_next_until_it_is_removed(tiny_llama_dir):
    queue = queue_of(A, B)
    chosen = queue.next([])
    assert chosen.model.adapter == A
    assert queue.next([A, A, A]) is chosen
    queue.remove(chosen)
    assert queue.next([A]).model.adapter == B


def test_many_requests_to_one_model_do_not_delay_another(make_engine, tiny_llama_dir, adapters_dir):
    engine = make_engine(concurrency=2)
    one, two = (adapters_dir / f"llama-{number}" for number in (1, 2))
    many = [engine.submit(greedy(tiny_llama_dir, one, 60)) for _ in range(20)]
    other = engine.submit(greedy(tiny_llama_dir, two, 5))
    other.result(60)
    assert sum(generation.done for generation in many) < 10
    assert all(len(generation.result(60)) == 60 for generation in many)


def test_a_steady_stream_to_one_base_does_not_starve_another(make_engine, tiny_llama_dir, tmp_path):
    a, b = (shutil.copytree(tiny_llama_dir, tmp_path / name) for name in "ab")
    engine = make_engine(budget=int(size(a) * 1.5), kv_cache_bytes=ARENA, patience_seconds=0.1)
    engine.generate(greedy(a, max_new_tokens=1))
    stream = Stream(engine, greedy(a, max_new_tokens=100))
    other = engine.submit(greedy(b, max_new_tokens=3))
    stream.go_on_until(lambda: other.done)
    assert len(other.result(1)) == 3
    assert all(len(generation.result(60)) == 100 for generation in stream.generations)
    assert engine.stats().bytes <= engine.stats().budget_bytes


@pytest.mark.parametrize("waits", [False, True])
def test_a_request_over_its_time_limit_fails(make_engine, endless_llama_dir, waits):
    engine = make_engine(concurrency=1, request_seconds=0.05)
    first = engine.submit(greedy(endless_llama_dir, max_new_tokens=ENDLESS))
    late = engine.submit(greedy(endless_llama_dir, max_new_tokens=ENDLESS)) if waits else first
    with pytest.raises(RequestTimedOut, match=r"not done within 0\.05 s \(\d+ tokens were there\)"):
        late.result(30)
    wait_until(lambda: engine.stats().running == engine.stats().waiting == 0)
    assert sum(model.cache_tokens_used for model in engine.stats().models) == 0


def test_the_time_limit_counts_waiting_for_memory(make_engine, endless_llama_dir, tmp_path):
    a, b = (shutil.copytree(endless_llama_dir, tmp_path / name) for name in "ab")
    arena = 30 * ARENA
    budget = int((size(a) - ARENA + arena) * 1.5)
    engine = make_engine(budget=budget, kv_cache_bytes=arena, patience_seconds=60, request_seconds=2.0)
    engine.submit(greedy(a, max_new_tokens=1))  # it may come too late itself: loading is slow the first time
    wait_until(lambda: loaded(engine) == ["a"])
    # Of different lengths, as all that end at once would leave their base idle.
    stream = Stream(engine, *(greedy(a, max_new_tokens=length) for length in range(1000, 1800, 130)))
    other = engine.submit(greedy(b, max_new_tokens=3))
    stream.go_on_until(lambda: other.done)
    with pytest.raises(RequestTimedOut):
        other.result(1)
