"""Hundreds of adapters on one base: the hot ones in memory, each answer its own adapter's, a new one at any time."""

import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.inference.network.load import needed_for_adapter
from tests.tasks.inference.adapters import save_adapter
from tests.tasks.inference.conftest import greedy, reference
from tests.tasks.inference.test_weight_cache import ARENA, size

COUNT = 200
HOT = 40
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def many(tiny_llama_dir, tmp_path_factory):
    """Adapters of the tiny Llama that differ in their numbers."""
    folder = tmp_path_factory.mktemp("many")
    first = save_adapter(tiny_llama_dir, folder / "first", seed=0)
    weights = load_file(first / "adapter_model.safetensors")
    dice = torch.Generator().manual_seed(1)
    for number in range(COUNT):
        adapter = folder / str(number)
        adapter.mkdir()
        shutil.copy(first / "adapter_config.json", adapter)
        drawn = {name: weight + 0.2 * torch.randn(weight.shape, generator=dice) for name, weight in weights.items()}
        save_file(drawn, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def test_hundreds_of_adapters_in_the_memory_of_a_few(make_engine, tiny_llama_dir, many):
    one = needed_for_adapter(tiny_llama_dir, many / "0", torch.float32, CPU)
    budget = size(tiny_llama_dir) + HOT * one
    engine = make_engine(budget=budget, kv_cache_bytes=ARENA, queue_length=1000)
    requests = {number: greedy(tiny_llama_dir, many / str(number), 6) for number in range(COUNT)}
    alone = {number: engine.generate(request) for number, request in requests.items()}
    assert len({json.dumps(tokens) for tokens in alone.values()}) > COUNT // 2
    order = random.Random(1).sample(range(COUNT), COUNT)
    batch = {number: engine.submit(requests[number]) for number in order}
    assert {number: generation.result(60) for number, generation in batch.items()} == alone
    for number in order[:3]:
        assert alone[number] == reference(requests[number])
    model = engine.stats().models[0]
    assert 1 < len(model.adapters) <= HOT
    assert engine.stats().bytes <= budget


def test_a_new_adapter_answers_while_others_run(make_engine, tiny_llama_dir, many, tmp_path):
    engine = make_engine()
    others = [engine.submit(greedy(tiny_llama_dir, many / str(number), 200)) for number in range(4)]
    next(iter(others[0]))
    new = greedy(tiny_llama_dir, save_adapter(tiny_llama_dir, tmp_path / "new", seed=77), 6)
    assert engine.generate(new) == reference(new)
    assert [len(generation.result(60)) for generation in others] == [200] * 4
