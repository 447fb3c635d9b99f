"""Activations that are computed again in the backward pass change nothing but what is kept for it."""

import threading

import pytest
import torch

from configs.recipe import TrainingRecipe
from tasks.training.planning import StepPlan
from tasks.training.step_backend import can_recompute, choose_backend
from tests.tasks.training.job import Recorder, adapter_bytes, load_adapted, make_rows, run

RECIPE = TrainingRecipe(epochs=1, batch_size=4, learning_rate=1e-2, lora_r=4, lora_dropout=0.2, eval_every=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_a_run_gives_the_same_to_the_last_bit(tiny_models_dir, tmp_path, name, dtype):
    results = []
    for recompute in (False, True):
        model, recorder = load_adapted(tiny_models_dir / name, RECIPE, dtype), Recorder()
        plan = StepPlan(2, recompute)
        run(model, RECIPE, tmp_path / f"run-{recompute}", recorder, plan=plan)
        results.append((recorder.trace(), recorder.events, adapter_bytes(model, tmp_path / f"adapter-{recompute}")))
    assert results[0] == results[1]


def kept_bytes(model, backend_name, recompute):
    """Bytes of what one micro-batch has kept when its backward pass begins."""
    storages, backward = {}, threading.Event()

    def keep(tensor):
        if not backward.is_set():
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def give_back(tensor):
        backward.set()
        return tensor

    backend = choose_backend(model.train(), 0, backend_name, recompute=recompute)
    frozen = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, give_back):
        backend.accumulate(backend.batch(make_rows(8)), 1)
    assert backward.is_set()
    return sum(size for place, size in storages.items() if place not in frozen)


@pytest.mark.parametrize(
    ("name", "backend"), [("tiny-llama", "packed"), ("tiny-llama", "padded"), ("tiny-gpt2", "padded")]
)
def test_less_is_kept(tiny_models_dir, name, backend):
    kept = [
        kept_bytes(load_adapted(tiny_models_dir / name, RECIPE), backend, recompute=recompute)
        for recompute in (False, True)
    ]
    assert can_recompute(load_adapted(tiny_models_dir / name, RECIPE))
    assert kept[1] < 0.5 * kept[0]
