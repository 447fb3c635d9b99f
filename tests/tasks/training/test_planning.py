"""The plan is the fastest that fits, keeps the step's rows, and what it says would fit does."""

import pickle
from dataclasses import replace

import pytest

from configs.recipe import TrainingRecipe
from tasks.training.errors import DoesNotFit
from tasks.training.estimate import StepShape, likely_backend, loading_bytes, sizes_of, step_bytes
from tasks.training.planning import StepPlan, Workload, plan_step

RECIPE = TrainingRecipe(batch_size=8, gradient_accumulation=2)
AUTO = RECIPE.model_copy(update={"micro_batch": "auto"})
SMOLLM2 = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "vocab_size": 49152,
}
GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}


def workload(backend="packed", rank=8, longest=512, on_cpu=True, lengths=None, config=SMOLLM2, can_recompute=True):
    sizes = sizes_of(config)
    trained = sizes.adapter_parameters(rank, None)
    shape = StepShape(backend, 2, 2 * 134_515_008, trained, rank, dropout=True, on_cpu=on_cpu)
    return Workload(sizes, shape, longest, lengths, can_recompute)


@pytest.mark.parametrize("backend", ["packed", "padded"])
def test_memory_grows_with_rows_length_and_rank_and_falls_when_activations_are_computed_again(backend):
    for plan in (StepPlan(4), StepPlan(4, recompute=True)):
        least = workload(backend).peak(plan)
        assert least < workload(backend).peak(StepPlan(5, plan.recompute))
        assert least < workload(backend, longest=600).peak(plan)
        assert least < workload(backend, rank=16).peak(plan)
    assert workload(backend).peak(StepPlan(4, recompute=True)) < workload(backend).peak(StepPlan(4))


def test_only_the_longest_rows_that_may_meet_in_a_micro_batch_count():
    ragged = workload(lengths=[500, 40, 30, 20, 10])
    assert ragged.peak(StepPlan(2)) < workload(longest=500).peak(StepPlan(2))
    assert ragged.peak(StepPlan(1)) == workload(longest=500).peak(StepPlan(1))
    assert ragged.peak(StepPlan(5)) == ragged.peak(StepPlan(4096))


@pytest.mark.parametrize("backend", ["packed", "padded"])
def test_the_fastest_plan_that_fits_is_taken(backend):
    work = workload(backend)
    assert plan_step(work, RECIPE, work.peak(StepPlan(8))) == StepPlan(8)
    assert plan_step(work, AUTO, work.peak(StepPlan(8))) == StepPlan(8)
    assert plan_step(work, RECIPE, work.peak(StepPlan(8)) - 1) == StepPlan(8, recompute=True)
    assert plan_step(work, AUTO, work.peak(StepPlan(8)) - 1) == StepPlan(7)
    assert plan_step(work, AUTO, work.peak(StepPlan(1))) == StepPlan(1)
    assert plan_step(work, AUTO, work.peak(StepPlan(1)) - 1).recompute


def test_a_model_that_cannot_compute_again_is_not_asked_to():
    work = workload("padded", can_recompute=False)
    with pytest.raises(DoesNotFit):
        plan_step(work, RECIPE, work.peak(StepPlan(8)) - 1)
    with pytest.raises(DoesNotFit):
        plan_step(work, AUTO, work.peak(StepPlan(1)) - 1)


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("backend", ["packed", "padded"])
def test_what_is_said_to_fit_fits_and_one_more_does_not(backend, on_cpu):
    work = workload(backend, on_cpu=on_cpu)
    available = work.peak(StepPlan(5, recompute=True))
    with pytest.raises(
        DoesNotFit, match=r"batch_size 5 would fit .*gradient_accumulation 4 .*micro_batch to auto"
    ) as few:
        plan_step(work, RECIPE, available)
    assert (few.value.batch_size, few.value.available) == (5, available)
    assert few.value.needed == work.peak(StepPlan(8, recompute=True)) > available

    available = workload(backend, longest=100, on_cpu=on_cpu).peak(StepPlan(1, recompute=True))
    for recipe in (RECIPE, AUTO):
        with pytest.raises(DoesNotFit, match="max_seq_length 100 would fit, 1 row at once") as short:
            plan_step(work, recipe, available)
        assert (short.value.batch_size, short.value.max_seq_length) == (None, 100)
    with pytest.raises(DoesNotFit, match="not even a row of one token would fit"):
        plan_step(work, AUTO, 10**8)
    assert str(pickle.loads(pickle.dumps(short.value))) == str(short.value)


def test_a_plan_is_lowered_by_halves_and_computes_again_at_the_end():
    plans = [StepPlan(6)]
    while smaller := plans[-1].lowered(can_recompute=True):
        plans.append(smaller)
    assert plans == [StepPlan(6), StepPlan(3), StepPlan(1), StepPlan(1, recompute=True)]
    assert [plan.accumulation(RECIPE) for plan in plans] == [3, 6, 16, 16]
    assert StepPlan(1).lowered(can_recompute=False) is None


def test_sizes_are_found_under_the_names_of_either_family_and_not_made_up():
    llama, gpt2 = sizes_of(SMOLLM2), sizes_of(GPT2)
    assert (llama.queries, llama.keys, llama.inner, llama.gated, llama.context) == (576, 192, 1536, True, 8192)
    assert (gpt2.queries, gpt2.keys, gpt2.inner, gpt2.gated, gpt2.context) == (768, 768, 3072, False, 1024)
    assert sizes_of({"text_config": SMOLLM2}) == llama
    assert sizes_of({"model_type": "mamba", "hidden_size": 768, "vocab_size": 50280}) is None
    assert (likely_backend(SMOLLM2), likely_backend(GPT2)) == ("packed", "padded")
    assert likely_backend(SMOLLM2 | {"sliding_window": 4096}) == "padded"


def test_adapters_of_named_layers_only_are_counted_as_such():
    sizes = sizes_of(SMOLLM2)
    assert sizes.adapter_parameters(8, ["q_proj"]) == 30 * 8 * (576 + 576)
    assert sizes.adapter_parameters(8, ["self_attn.q_proj", "v_proj"]) == 30 * 8 * (576 + 576 + 576 + 192)
    assert sizes.adapter_parameters(8, ["a_name_of_its_own"]) == sizes.adapter_parameters(8, None)


LLAMA_8B = SMOLLM2 | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def over(devices, on_cpu=False):
    work = workload(on_cpu=on_cpu, config=LLAMA_8B)
    return replace(work, shape=replace(work.shape, devices=devices, frozen_bytes=2 * 8_030_261_248))


def test_weights_are_sharded_only_where_nothing_else_fits():
    two = AUTO.model_copy(update={"devices": 2})
    work = over(2)
    least = work.peak(StepPlan(1, recompute=True))
    assert not plan_step(work, two, least).sharded
    plan = plan_step(work, two, least - 1)
    assert plan.sharded
    assert work.peak(plan) < least
    assert plan_step(work, two.model_copy(update={"sharding": "full"}), 10**12) == StepPlan(4, sharded=True)
    with pytest.raises(DoesNotFit, match="sharding auto would fit: the devices divide the weights") as lack:
        plan_step(work, two.model_copy(update={"sharding": "none"}), least - 1)
    assert lack.value.sharding == "auto"
    for alone in (AUTO, two.model_copy(update={"method": "dora"})):
        with pytest.raises(DoesNotFit) as lack:
            plan_step(work, alone, least - 1)
        assert lack.value.sharding is None


def test_each_device_more_holds_less_of_the_weights_and_all_of_the_gathered_layers():
    plan = StepPlan(1, recompute=True, sharded=True)
    peaks = [over(devices).peak(plan) for devices in (2, 4, 8)]
    weights = over(2).shape.frozen_bytes
    assert peaks[0] - peaks[1] == weights // 2 - weights // 4
    assert peaks[1] - peaks[2] == weights // 4 - weights // 8


def test_on_a_cpu_a_plan_has_room_for_a_full_model_while_it_is_sharded():
    work = replace(over(2, on_cpu=True), longest=8)
    at_work = replace(work.shape, sharded=True, backend="padded")
    plan = StepPlan(1, recompute=True, sharded=True)
    assert work.peak(plan) >= loading_bytes(at_work) > 2 * work.shape.frozen_bytes
    assert work.peak(plan) == max(loading_bytes(at_work), 2 * step_bytes(work.sizes, at_work, [8], recompute=True))


def test_where_all_weights_train_each_device_more_holds_less_of_their_state():
    work = over(2)
    parameters = 8_030_261_248
    shapes = [
        replace(work.shape, backend="padded", frozen_bytes=0, trained_parameters=parameters, rank=0, devices=devices)
        for devices in (2, 4)
    ]
    whole, divided = StepPlan(1, recompute=True), StepPlan(1, recompute=True, sharded=True)
    assert replace(work, shape=shapes[0]).peak(whole) > parameters * 16
    peaks = [replace(work, shape=shape).peak(divided) for shape in shapes]
    assert parameters * 16 // 2 < peaks[0] == peaks[1] + parameters * 16 // 4


def test_a_smaller_plan_keeps_the_weights_as_they_are():
    plans = [StepPlan(2, sharded=True)]
    while smaller := plans[-1].lowered(can_recompute=True):
        plans.append(smaller)
    assert plans == [StepPlan(2, sharded=True), StepPlan(1, sharded=True), StepPlan(1, recompute=True, sharded=True)]
    assert plans[-1].rows_at_once == "1 row at once, activations computed again, weights divided among the devices"
