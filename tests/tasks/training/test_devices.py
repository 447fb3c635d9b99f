"""Two processes train as one does, resume to the bit, and end together when one of them dies."""

from dataclasses import dataclass
from multiprocessing import active_children

import pytest
import torch
from safetensors.torch import load

from configs.recipe import TrainingRecipe
from tasks.training.checkpoint import latest_checkpoint
from tasks.training.devices import TrainingRun, train_on_devices
from tasks.training.devices import load as load_model
from tasks.training.errors import CheckpointMismatch, RankLost
from tasks.training.planning import StepPlan
from tasks.training.saved_run import SavedRun
from tests.tasks.training.job import Recorder, Start, adapter_bytes, make_rows

RECIPE = TrainingRecipe(
    devices=2,
    epochs=3,
    batch_size=3,
    gradient_accumulation=2,
    learning_rate=1e-2,
    lora_r=4,
    lora_dropout=0.2,
    eval_every=3,
)
STEPS = 9  # 13 rows in steps of 6: the last step of each epoch has one row, and nothing for the second rank


@dataclass
class Killing(Recorder):
    """Kills the process of the other rank after a step."""

    kill_rank_after: int | None = None

    def on_step(self, record):
        super().on_step(record)
        if record.step == self.kill_rank_after:
            (other,) = active_children()
            other.kill()


def run(
    folder, recipe, checkpoints, recorder, interval=3600.0, plan=None, *, rows=None, held_out=None, background=True
):
    """Train on the recipe's devices; return the model and the outcome."""
    origin = Start(folder)
    model = load_model(origin, recipe)
    settings = TrainingRun(
        recipe=recipe,
        train_rows=rows or make_rows(13),
        held_out_rows=held_out or make_rows(5, seed=8),
        pad_token_id=0,
        saved_run=SavedRun(checkpoints),
        data_fingerprint="rows-v1",
        compute_dtype=torch.float32,
        checkpoint_interval=interval,
        background_saves=background,
        plan=plan or StepPlan(recipe.rows_per_device),
    )
    return model, train_on_devices(settings, origin, model, recorder, recorder.should_pause)


def test_two_processes_learn_what_one_does(tiny_llama_dir, tmp_path):
    recipe = RECIPE.model_copy(update={"lora_dropout": 0.0})
    two, one = Recorder(), Recorder()
    shared, outcome = run(tiny_llama_dir, recipe, tmp_path / "two", two)
    alone, expected = run(tiny_llama_dir, recipe.model_copy(update={"devices": 1}), tmp_path / "one", one)
    assert (outcome.step, two.saved[-1].name) == (STEPS, f"step-{STEPS:08d}")
    assert outcome.eval_loss == pytest.approx(expected.eval_loss, rel=1e-5)
    for found, wanted in zip(two.records, one.records, strict=True):
        assert (found.tokens, found.sample_ids) == (wanted.tokens, wanted.sample_ids)
        assert (found.loss, found.grad_norm) == pytest.approx((wanted.loss, wanted.grad_norm), rel=1e-4)
    adapters = [load(adapter_bytes(model, tmp_path / name)) for name, model in (("a", shared), ("b", alone))]
    for name, weight in adapters[0].items():
        torch.testing.assert_close(weight, adapters[1][name], rtol=1e-3, atol=1e-5)


def test_paused_and_bereft_runs_equal_an_uninterrupted_one(tiny_llama_dir, tmp_path):
    whole = Recorder()
    model, outcome = run(tiny_llama_dir, RECIPE, tmp_path / "whole", whole)
    expected = adapter_bytes(model, tmp_path / "whole-adapter")

    parts = Recorder(pause_after=2)
    _, paused = run(tiny_llama_dir, RECIPE, tmp_path / "parts", parts)
    assert (paused.paused, paused.step) == (True, 2)
    with pytest.raises(CheckpointMismatch, match=r"recipe\.devices was 2, is 1"):
        run(tiny_llama_dir, RECIPE.model_copy(update={"devices": 1}), tmp_path / "parts", Recorder())

    bereft = Killing(kill_rank_after=5)
    with pytest.raises(RankLost, match="rank 1 ended before the run, with code -9"):
        run(tiny_llama_dir, RECIPE, tmp_path / "parts", bereft, interval=0)
    assert not active_children()
    assert bereft.started_at[0] == 2
    checkpoint = latest_checkpoint(tmp_path / "parts", pytest.fail)
    assert checkpoint is not None

    resumed = Recorder()
    model, again = run(tiny_llama_dir, RECIPE, tmp_path / "parts", resumed)
    step = resumed.started_at[0]
    assert step == checkpoint.state.progress.cursor.step == 4
    assert again == outcome
    assert parts.trace() + bereft.trace()[: step - 2] + resumed.trace() == whole.trace()
    assert adapter_bytes(model, tmp_path / "parts-adapter") == expected
