"""The estimate bounds what training really takes, and is not far above it."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, LlamaConfig

from configs.recipe import TrainingRecipe
from tasks.training.adapter import attach_lora
from tasks.training.estimate import RUNTIME_BYTES
from tasks.training.fitting import workload_of
from tasks.training.methods import METHODS
from tasks.training.planning import StepPlan
from tasks.training.step_backend import choose_backend
from tests.tasks.training.job import Row, Start, load_adapted
from tests.tasks.training.test_planning import SMOLLM2

MOST_TOO_MUCH = 2.0
"""How many times what tensors of a model of real size take may be estimated; of a process see `docs/benchmarks.md`."""
RECIPE = TrainingRecipe(lora_dropout=0.05)


def live_bytes(work):
    """Return the most bytes that tensors made in `work` take at once, and what it returns."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak, result


def step_of(model, backend, rows, length, recompute, recipe=RECIPE):
    """Compute the gradient of one micro-batch; return what is estimated for it, without the libraries' own share."""
    ids = torch.randint(3, 300, (rows, length)).tolist()
    chosen = choose_backend(model.train(), 0, backend, recompute=recompute)
    chosen.accumulate(chosen.batch([Row(row, row) for row in ids]), rows * length)
    workload = workload_of(model, recipe, [length] * rows, backend)
    return workload.peak(StepPlan(rows, recompute)) - RUNTIME_BYTES


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("name", "backend"), [("tiny-llama", "packed"), ("tiny-llama", "padded"), ("tiny-gpt2", "padded")]
)
def test_a_tiny_model_takes_at_most_what_is_estimated(tiny_models_dir, name, backend, recompute):
    model = load_adapted(tiny_models_dir / name, RECIPE)
    measured, estimated = live_bytes(lambda: step_of(model, backend, 16, 100, recompute))
    assert measured <= estimated


@pytest.mark.parametrize("method", ["dora", "full"])
def test_other_methods_take_at_most_what_is_estimated(tiny_llama_dir, method):
    recipe = TrainingRecipe(method=method)

    def load_and_step():
        return step_of(METHODS[method].load(Start(tiny_llama_dir), recipe), "padded", 16, 100, False, recipe)

    measured, estimated = live_bytes(load_and_step)
    assert measured <= estimated


def test_a_model_of_real_size_takes_at_most_what_is_estimated_and_not_far_less():
    def load_and_step():
        shape = LlamaConfig(**SMOLLM2, tie_word_embeddings=True)
        base = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
        return step_of(attach_lora(base, RECIPE), "packed", 2, 128, recompute=False)

    measured, estimated = live_bytes(load_and_step)
    assert measured <= estimated <= MOST_TOO_MUCH * measured
