"""What a step keeps, counted tensor by tensor: the estimate is never below it, nor far above, for any family."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from configs.recipe import TrainingRecipe
from registry.model_families import FAMILIES
from tasks.training import estimate
from tasks.training.adapter import attach_lora
from tasks.training.fitting import workload_of
from tasks.training.kept import FAMILIES as KEPT
from tasks.training.kept import kept_by
from tasks.training.planning import StepPlan
from tasks.training.step_backend import choose_backend
from tests.tasks.training.job import Row
from tests.tiny_families import sized_model

RECIPE = TrainingRecipe(lora_dropout=0.05, lora_r=4)
MOST_TOO_MUCH = 1.25
SIZE = {"width": 4, "layers": 4, "vocabulary": 1024}
"""Hidden 128 and four heads: narrow enough to be quick, wide enough that layers outweigh what every step takes."""


def test_every_family_that_is_named_is_supported():
    assert set(KEPT) <= FAMILIES


def test_attention_that_makes_its_weights_is_known():
    for family in sorted(FAMILIES):
        config = sized_model(family, torch.float32, **SIZE).config
        assert kept_by(family).eager == (config._attn_implementation == "eager"), family


def bytes_at_once(work):
    """The most bytes of tensors made in `work` that are there at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize(("dtype", "length"), [("bfloat16", 64), ("float32", 192)])
@pytest.mark.parametrize("family", ["bloom", "gemma2", "gemma3", "gpt2", "gpt_oss", "llama", "mixtral", "qwen3_moe"])
def test_kinds_of_layers_in_both_formats_at_two_lengths(monkeypatch, family, dtype, length, recompute):
    check(monkeypatch, family, getattr(torch, dtype), length, recompute=recompute)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_step_of_every_family(monkeypatch, family):
    check(monkeypatch, family, torch.bfloat16, 128)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_rows_of_different_lengths(monkeypatch, family):
    """With padding there is a mask, and with a mask keys and values are repeated for each head."""
    check(monkeypatch, family, torch.bfloat16, 192, shortest=96)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dropout", [{"attn_pdrop": 0.1}, {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}])
def test_a_base_with_dropout_of_its_own(monkeypatch, dropout, dtype):
    check(monkeypatch, "gpt2", dtype, 192, **dropout)


def check(monkeypatch, family, dtype, length, *, shortest=None, recompute=False, **fields):
    monkeypatch.setattr(estimate, "PADDED_SLACK", 1.0)  # tensors alone: no allocator
    rows = [Row(ids, ids) for ids in torch.randint(3, 300, (4, length)).tolist()]
    rows[-1] = Row(rows[-1].input_ids[:shortest], rows[-1].labels[:shortest])
    model = attach_lora(sized_model(family, dtype, **SIZE, **fields), RECIPE).train()
    backend = choose_backend(model, 0, "padded", recompute=recompute)
    batch, plan = backend.batch(rows), StepPlan(len(rows), recompute)
    measured = bytes_at_once(lambda: backend.accumulate(batch, len(rows) * length))
    workload = workload_of(model, RECIPE, [length] * len(rows), "padded")
    estimated = workload.peak(plan) - estimate._fixed(workload.sizes, workload.shape)
    assert measured <= estimated
    if not recompute:
        assert estimated <= MOST_TOO_MUCH * measured
