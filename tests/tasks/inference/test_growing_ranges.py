"""Ranges of the arena that grow: answers are those of each request alone, whoever moves or gives way; nothing leaks."""

import json
import shutil
import threading
from dataclasses import replace

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from tasks.inference.engine import GenerationRequest, ModelRef
from tasks.inference.errors import RequestTimedOut
from tasks.inference.listener import STARTED
from tasks.inference.network.load import cache_bytes_per_token, load_network
from tasks.inference.network.step import KVArena
from tasks.models.loading import load_config
from tests.tasks.inference.adapters import save_adapter
from tests.tasks.inference.conftest import greedy, prompt_ids
from tests.tasks.inference.test_engine import wait_until
from tests.tasks.inference.test_network import Reader, expected, texts
from tests.tasks.inference.test_weight_cache import ARENA, size

TOKEN_BYTES = 256
"""Keys and values of one token of the tiny Llama in float32."""
SHARE = 8
"""Ranges grow by so many tokens at least."""


class Watch:
    """A listener, on the decode thread: it notes who gives way and moves, and can hold the thread up at a moment."""

    def __init__(self, folder, moment=None):
        self.name, self.moment = f"decode-{folder.name}", moment
        self.most_running, self.most_swapped, self.places = 0, 0, {}
        self.reached, self.go_on = threading.Event(), threading.Event()

    @property
    def worker(self):
        (worker,) = [thread for thread in threading.enumerate() if thread.name == self.name]
        return worker

    def __call__(self, token_id):
        worker = self.worker
        admitted = worker.admitted
        assert worker.base is None or worker.base.allocator.used <= worker.base.allocator.capacity
        self.most_running = max(self.most_running, len(admitted.running))
        self.most_swapped = max(self.most_swapped, len(admitted.swapped))
        for sequence in admitted.running:
            self.places.setdefault(id(sequence.request), set()).add(sequence.start)
        if token_id == STARTED:
            return  # under the engine's lock: nobody may be held up there
        if self.moment is not None and not self.reached.is_set() and self.moment(admitted):
            self.reached.set()
            assert self.go_on.wait(60)


@pytest.fixture(scope="module")
def foreign_dir(tmp_path_factory):
    """A base that only transformers' own model computes, with an adapter."""
    folder = tmp_path_factory.mktemp("foreign")
    sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    torch.manual_seed(0)
    MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=16)).save_pretrained(folder / "base")
    save_adapter(folder / "base", folder / "adapter", seed=1)
    return folder


def requests_of(weights, adapters, new):
    """Greedy and drawn ones, with every adapter and none, of prompts of different lengths."""
    ids = [number * 7 % 90 + 1 for number in range(40)]
    kinds = [None, *adapters]
    return [
        GenerationRequest(
            ModelRef(weights, kinds[number % len(kinds)]),
            ids[: 1 + 6 * number],
            new - 3 * number,
            temperature=float(number % 2),
            top_p=0.95,
            repetition_penalty=1.2 if number % 3 == 0 else 1.0,
            seed=number,
            logprobs=2,
        )
        for number in range(6)
    ]


@pytest.mark.parametrize("kind", ["compiled", "torch in bfloat16", "transformers"])
def test_who_moves_and_gives_way_answers_as_alone(
    make_engine, tiny_llama_dir, tiny_gpt2_dir, adapters_dir, foreign_dir, kind
):
    weights, adapters, dtype = {
        "compiled": (tiny_llama_dir, [adapters_dir / "llama-1", adapters_dir / "llama-2"], torch.float32),
        "torch in bfloat16": (tiny_gpt2_dir, [adapters_dir / "gpt2-1"], torch.bfloat16),
        "transformers": (foreign_dir / "base", [foreign_dir / "adapter"], torch.float32),
    }[kind]
    requests = requests_of(weights, adapters, new=70)
    room = make_engine(dtype=dtype)
    alone = []
    for request in requests:
        generation = room.submit(request)
        alone.append((generation.result(60), generation.logprobs))
    arena = 120 * cache_bytes_per_token(load_config(weights), dtype)
    engine = make_engine(dtype=dtype, kv_cache_bytes=arena, range_tokens=SHARE)
    watch = Watch(weights)
    room.close()
    idle = engine.submit(requests[0], watch).result(60) and engine.stats().bytes
    generations = [engine.submit(request, watch) for request in requests]
    together = [(generation.result(60), generation.logprobs) for generation in generations]
    assert together == alone
    assert [len(tokens) for tokens, _ in together] == [request.max_new_tokens for request in requests]
    assert watch.most_running > 1
    assert watch.most_swapped > 1
    assert max(len(places) for places in watch.places.values()) > 2
    wait_until(lambda: engine.stats().running == 0)
    (model,) = engine.stats().models
    assert (model.cache_tokens_used, model.waiting) == (0, 0)
    assert model.bytes >= idle
    assert watch.worker.admitted.host_bytes(watch.worker.base) == 0


def test_keys_and_values_are_moved_over_their_own_place():
    numbers = torch.arange(2 * 3 * 50 * 4, dtype=torch.float32).view(2, 3, 50, 4)
    for old, new, tokens in ((10, 13, 20), (13, 10, 20), (0, 30, 20), (5, 5, 9), (1, 7, 0)):
        arena = KVArena(numbers.clone(), -numbers)
        arena.move(old, new, tokens)
        assert torch.equal(arena.keys[:, :, new : new + tokens], numbers[:, :, old : old + tokens])
        assert torch.equal(arena.values[:, :, new : new + tokens], -numbers[:, :, old : old + tokens])
        assert torch.equal(arena.keys[:, :, max(old, new) + tokens :], numbers[:, :, max(old, new) + tokens :])
        swap_in = arena.swap_out(new, tokens)
        arena.keys.zero_()
        swap_in(29)
        assert torch.equal(arena.keys[:, :, 29 : 29 + tokens], numbers[:, :, old : old + tokens])


def test_a_cache_of_transformers_comes_back_at_another_place(foreign_dir):
    reader = Reader(load_network(foreign_dir / "base", torch.float32, torch.device("cpu")))
    (ids,) = texts(99, [30])
    reader.step({(0, -1): ids[:20]})
    reader.arena.move(0, 50, 20)
    swap_in = reader.arena.swap_out(50, 20)
    reader.arena.swap_out(60, 0)(70)  # nothing has been read of that one
    assert reader.arena.texts == {}
    swap_in(10)
    reader.cached[10, -1] = 20
    (logits,) = reader.step({(10, -1): ids[20:]})
    assert torch.allclose(logits, expected(foreign_dir / "base", ids)[-1], atol=1e-5)
    reader.arena.release(10)
    assert reader.arena.texts == {}


@pytest.fixture
def chat_dir(tiny_llama_dir, tmp_path):
    """The tiny Llama with the starter model's context."""
    folder = shutil.copytree(tiny_llama_dir, tmp_path / "chat-llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    return folder


def test_twenty_chats_without_a_limit_run_at_a_time_in_an_arena_of_two_and_a_half_contexts(make_engine, chat_dir):
    engine = make_engine(kv_cache_bytes=20_000 * TOKEN_BYTES, budget=30_000_000, concurrency=32)
    ids = prompt_ids(chat_dir) * 6
    room = engine.capacity(chat_dir) - len(ids)
    assert room == 8192 - len(ids)
    chats = [engine.submit(greedy(chat_dir, max_new_tokens=room, ids=ids)) for _ in range(20)]
    for chat in chats:
        next(iter(chat))
    (model,) = engine.stats().models
    assert (model.running, model.waiting) == (20, 0)
    assert 20 * len(ids) < model.cache_tokens_used <= model.cache_tokens
    for chat in chats:
        chat.cancel()
    wait_until(lambda: engine.stats().running == 0)
    assert engine.stats().models[0].cache_tokens_used == 0


def some_gave_way(admitted):
    return len(admitted.swapped) > 1


@pytest.fixture
def held(make_engine, endless_llama_dir):
    """An engine whose thread is held up when two of four have given way, one request waits; its requests, the watch."""
    engine = make_engine(kv_cache_bytes=120 * TOKEN_BYTES, range_tokens=SHARE)
    watch = Watch(endless_llama_dir, some_gave_way)
    request = greedy(endless_llama_dir, max_new_tokens=100)
    generations = [engine.submit(request, watch) for _ in range(4)]
    assert watch.reached.wait(60)
    generations.append(engine.submit(request))
    yield engine, generations, watch
    watch.go_on.set()


def end_by(how, request):
    """End a request by a cancel, or by its time limit."""
    if how == "cancel":
        request.cancel()
    else:
        request.deadline = 0.0


@pytest.mark.parametrize("how", ["cancel", "deadline"])
@pytest.mark.parametrize("state", ["running", "swapped", "waiting", "all"])
def test_a_request_ended_in_any_state_leaves_nothing(held, state, how):
    engine, generations, watch = held
    admitted = watch.worker.admitted
    (model,) = engine.stats().models
    assert (model.running, model.waiting) == (len(admitted.running), len(admitted.swapped) + 1)
    assert model.running + model.waiting == 5
    assert model.bytes > watch.worker.base.total_bytes
    chosen = {
        "running": admitted.running[-1:],
        "swapped": admitted.swapped[-1:],
        "waiting": [],
        "all": list(admitted),
    }[state]
    ended = [sequence.request for sequence in chosen] + (generations[-1:] if state in ("waiting", "all") else [])
    for request in ended:
        end_by(how, request)
    watch.go_on.set()
    answers = {tuple(generation.result(60)) for generation in generations if generation not in ended}
    assert len(answers) == (state != "all")
    for generation in generations:
        if generation not in ended:
            assert len(generation.result(60)) == 100
        elif how == "cancel":
            assert len(generation.result(60)) < 100
        else:
            with pytest.raises(RequestTimedOut):
                generation.result(60)
    wait_until(lambda: engine.stats().running + engine.stats().waiting == 0)
    (model,) = engine.stats().models
    assert (model.cache_tokens_used, model.bytes) == (0, watch.worker.base.total_bytes)


def test_closing_ends_those_that_gave_way(held):
    engine, generations, watch = held
    worker = watch.worker
    engine.close(0.1)
    watch.go_on.set()
    for generation in generations:
        generation.wait(60)
    assert {generation.finish_reason for generation in generations} == {"cancelled"}
    worker.join(60)
    assert (len(worker.admitted), worker.held_bytes) == (0, 0)


def test_without_memory_for_those_that_may_give_way_one_runs_at_a_time(make_engine, tiny_llama_dir, tmp_path):
    a, b = (shutil.copytree(tiny_llama_dir, tmp_path / name) for name in "ab")
    arena = 240 * TOKEN_BYTES
    exact = size(a) - ARENA + arena
    engine = make_engine(budget=2 * exact + SHARE * TOKEN_BYTES, kv_cache_bytes=arena, range_tokens=SHARE)
    busy = Watch(b, lambda admitted: len(admitted) == 1)
    other = engine.submit(greedy(b, max_new_tokens=2), busy)
    assert busy.reached.wait(60)
    request = replace(greedy(a, max_new_tokens=100), seed=1, temperature=1.0)
    watch = Watch(a)
    alone = engine.submit(request, watch).result(60)
    generations = [engine.submit(request, watch) for _ in range(3)]
    assert [generation.result(60) for generation in generations] == [alone] * 3
    assert watch.most_running == 1
    assert engine.stats().bytes <= engine.stats().budget_bytes
    busy.go_on.set()
    other.result(60)
    wait_until(lambda: engine.stats().running == 0)
    generations = [engine.submit(request, watch) for _ in range(3)]
    assert [generation.result(60) for generation in generations] == [alone] * 3
    assert watch.most_running == 3  # the idle base went
    assert engine.stats().bytes <= engine.stats().budget_bytes


def test_one_sequence_always_has_room_to_its_end(make_engine, endless_llama_dir):
    ids = prompt_ids(endless_llama_dir)
    engine = make_engine(kv_cache_bytes=(len(ids) + 90) * TOKEN_BYTES, range_tokens=SHARE)
    request = greedy(endless_llama_dir, max_new_tokens=90)
    generations = [engine.submit(request) for _ in range(3)]
    answers = [generation.result(60) for generation in generations]
    assert answers == [make_engine().generate(request)] * 3
    assert len(answers[0]) == 90
