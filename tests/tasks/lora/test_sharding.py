"""Two processes that divide the weights learn what one does that has them all, resume to the bit, and end together."""

from multiprocessing import active_children

import pytest
from safetensors.torch import load

from tasks.lora.errors import RankLost
from tasks.lora.planning import StepPlan
from tasks.lora.sharding import held_bytes
from tests.tasks.lora.job import Recorder, adapter_bytes, load_adapted
from tests.tasks.lora.test_devices import RECIPE, STEPS, Killing, run

SHARDED = RECIPE.model_copy(update={"lora_dropout": 0.0, "sharding": "full"})
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
    alone = SHARDED.model_copy(update={"devices": 1, "sharding": "auto"})
    expected_model, expected = run(tiny_llama_dir, alone, tmp_path, one)
    assert outcome.step == STEPS
    assert outcome.eval_loss == pytest.approx(expected.eval_loss, rel=1e-5)
    for found, wanted in zip(told.records, one.records, strict=True):
        assert (found.tokens, found.sample_ids) == (wanted.tokens, wanted.sample_ids)
        assert (found.loss, found.grad_norm) == pytest.approx((wanted.loss, wanted.grad_norm), rel=1e-4)
    expected_weights = load(adapter_bytes(expected_model, tmp_path / "adapter"))
    for name, weight in load(adapter).items():
        assert weight.allclose(expected_weights[name], rtol=1e-3, atol=1e-5)
    all_bytes = held_bytes(load_adapted(tiny_llama_dir, alone))
    assert held_bytes(model) == pytest.approx(all_bytes / 2, rel=0.01)


def test_paused_and_bereft_runs_equal_an_uninterrupted_one(whole, tiny_llama_dir, tmp_path):
    _, outcome, told, adapter = whole
    parts = Recorder(pause_after=2)
    _, paused = run(tiny_llama_dir, SHARDED, tmp_path / "parts", parts, plan=PLAN)
    assert (paused.paused, paused.step) == (True, 2)

    bereft = Killing(kill_rank_after=5)
    with pytest.raises(RankLost, match="rank 1 ended before the run, with code -9"):
        run(tiny_llama_dir, SHARDED, tmp_path / "parts", bereft, interval=0, plan=PLAN)
    assert not active_children()

    resumed = Recorder()
    recomputing = StepPlan(2, recompute=True, sharded=True)  # the same to the last bit
    model, again = run(tiny_llama_dir, SHARDED, tmp_path / "parts", resumed, plan=recomputing)
    step = resumed.started_at[0]
    assert (bereft.started_at[0], step) == (2, 4)
    assert again == outcome
    assert parts.trace() + bereft.trace()[: step - 2] + resumed.trace() == told.trace()
    assert adapter_bytes(model, tmp_path / "adapter") == adapter
