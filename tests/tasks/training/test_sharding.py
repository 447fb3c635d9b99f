"""Two processes that divide the weights learn what one does that has them all, resume to the bit, and end together."""

from multiprocessing import active_children

import pytest
import torch
from safetensors.torch import load, load_file

from configs.recipe import TrainingRecipe
from tasks.training.checkpoint_list import folders
from tasks.training.errors import RankLost
from tasks.training.methods import METHODS
from tasks.training.planning import StepPlan
from tasks.training.sharding import held_bytes
from tasks.training.snapshot import load_trained
from tests.tasks.training.job import Recorder, Start, adapter_bytes, load_adapted
from tests.tasks.training.test_devices import RECIPE, STEPS, Killing, run

SHARDED = RECIPE.model_copy(update={"lora_dropout": 0.0, "sharding": "full"})
ALONE = {"devices": 1, "sharding": "auto"}
PLAN = StepPlan(2, sharded=True)  # of the last row of an epoch the second rank has none, and computes a blank one


@pytest.fixture(scope="module")
def whole(tiny_llama_dir, tmp_path_factory):
    """A run without a break: its model, its outcome, what it told, and its adapter's file."""
    folder, recorder = tmp_path_factory.mktemp("whole"), Recorder()
    model, outcome = run(tiny_llama_dir, SHARDED, folder / "checkpoints", recorder, plan=PLAN)
    return model, outcome, recorder, adapter_bytes(model, folder)


def test_two_processes_with_half_the_weights_each_learn_what_one_does(whole, tiny_llama_dir, tmp_path):
    model, outcome, told, adapter = whole
    one = Recorder()
    alone = SHARDED.model_copy(update=ALONE)
    expected_model, expected = run(tiny_llama_dir, alone, tmp_path, one)
    assert outcome.step == STEPS
    assert outcome.eval_loss == pytest.approx(expected.eval_loss, rel=1e-5)
    for found, wanted in zip(told.records, one.records, strict=True):
        assert (found.tokens, found.sample_ids) == (wanted.tokens, wanted.sample_ids)
        assert (found.loss, found.grad_norm) == pytest.approx((wanted.loss, wanted.grad_norm), rel=1e-4)
    expected_weights = load(adapter_bytes(expected_model, tmp_path / "adapter"))
    for name, weight in load(adapter).items():
        torch.testing.assert_close(weight, expected_weights[name], rtol=1e-3, atol=1e-5)
    all_bytes = held_bytes(load_adapted(tiny_llama_dir, alone))
    assert held_bytes(model) == pytest.approx(all_bytes / 2, rel=0.01)


def test_a_run_whose_rank_was_killed_goes_on_as_an_uninterrupted_one(whole, tiny_llama_dir, tmp_path):
    _, outcome, told, adapter = whole
    bereft = Killing(kill_rank_after=5)
    with pytest.raises(RankLost, match="rank 1 ended before the run, with code -9"):
        run(tiny_llama_dir, SHARDED, tmp_path / "parts", bereft, interval=0, plan=PLAN)
    assert not active_children()

    resumed = Recorder()
    recomputing = StepPlan(2, recompute=True, sharded=True)  # the same to the last bit
    model, again = run(tiny_llama_dir, SHARDED, tmp_path / "parts", resumed, plan=recomputing)
    step = resumed.started_at[0]
    assert step == 4
    assert again == outcome
    assert bereft.trace()[:step] + resumed.trace() == told.trace()
    assert adapter_bytes(model, tmp_path / "adapter") == adapter


def test_a_sharded_full_run_equals_an_unsharded_one_and_goes_on_after_a_pause(tiny_llama_dir, tmp_path):
    two = TrainingRecipe(method="full", devices=2, sharding="full", max_steps=3, batch_size=6, learning_rate=1e-3)
    told, interrupted, one = Recorder(), Recorder(pause_after=2), Recorder()
    model, outcome = run(tiny_llama_dir, two, tmp_path / "two", told, plan=PLAN, background=False)
    alone, expected = run(tiny_llama_dir, two.model_copy(update=ALONE), tmp_path / "one", one)
    assert held_bytes(model) == pytest.approx(held_bytes(alone) / 2, rel=0.01)
    assert outcome.eval_loss == pytest.approx(expected.eval_loss, rel=1e-5)
    for found, wanted in zip(told.records, one.records, strict=True):
        assert (found.loss, found.grad_norm) == pytest.approx((wanted.loss, wanted.grad_norm), rel=1e-4)
    kept = METHODS["full"].load(Start(tiny_llama_dir), two)
    load_trained(kept, tmp_path / "two", outcome.weights_step)
    for name, weight in alone.named_parameters():
        torch.testing.assert_close(kept.get_parameter(name), weight, rtol=1e-3, atol=1e-5)

    _, paused = run(tiny_llama_dir, two, tmp_path / "parts", interrupted, plan=PLAN)
    assert (paused.paused, paused.step) == (True, 2)
    interrupted.pause_after = None
    run(tiny_llama_dir, two, tmp_path / "parts", interrupted, plan=PLAN)
    assert interrupted.trace() == told.trace()
    for part in ("weights", "optimizer"):
        uninterrupted, resumed = (load_file(last_file(tmp_path / name, part)) for name in ("two", "parts"))
        assert uninterrupted.keys() == resumed.keys()
        assert all(torch.equal(value, resumed[name]) for name, value in uninterrupted.items())


def last_file(checkpoints, part):
    """The newest checkpoint's file of this name."""
    return folders(checkpoints)[0] / f"{part}.safetensors"
