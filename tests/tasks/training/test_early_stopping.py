"""Training ends when the held-out loss stops falling, the best adapter is kept, and an interruption changes neither."""

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from configs.recipe import TrainingRecipe
from tasks.training.adapter import trainable_weights
from tasks.training.checkpoint import Progress
from tasks.training.errors import BestCheckpointLost, CheckpointMismatch
from tasks.training.observer import TrainOutcome
from tasks.training.step_backend import choose_backend, held_out_loss
from tests.tasks.training.job import Killed, Recorder, adapter_bytes, load_adapted, make_rows, run, unsay

# A rate so high that the held-out loss falls at first and then rises.
ENDLESS = TrainingRecipe(epochs=5, batch_size=4, learning_rate=3e-2, lora_r=4, lora_dropout=0.2, eval_every=2)
PATIENCE = 2
RECIPE = ENDLESS.model_copy(update={"early_stopping_patience": PATIENCE, "register_best": True})
STEPS = 20


@dataclass
class Reference:
    """One uninterrupted run."""

    outcome: TrainOutcome
    recorder: Recorder
    adapter: bytes
    checkpoints: Path

    def held_out(self) -> dict[int, float]:
        return {step: loss for kind, step, loss in self.recorder.events if kind == "evaluation"}


def job(folder: Path, root: Path, recipe: TrainingRecipe, recorder: Recorder | None = None) -> Reference:
    recorder, model = recorder or Recorder(), load_adapted(folder, recipe)
    outcome = run(model, recipe, root / "run", recorder)
    return Reference(outcome, recorder, adapter_bytes(model, root / "adapter"), root / "run")


@pytest.fixture(scope="module")
def endless(tiny_gpt2_dir, tmp_path_factory):
    return job(tiny_gpt2_dir, tmp_path_factory.mktemp("endless"), ENDLESS)


@pytest.fixture(scope="module")
def whole(tiny_gpt2_dir, tmp_path_factory):
    return job(tiny_gpt2_dir, tmp_path_factory.mktemp("whole"), RECIPE)


def expected_end(losses: dict[int, float]) -> tuple[int, int]:
    """Where a run with these held-out losses should stop, and its best step, counted one by one."""
    best, without = next(iter(losses)), 0
    for step, loss in list(losses.items())[1:]:
        best, without = (step, 0) if loss < losses[best] else (best, without + 1)
        if without == PATIENCE:
            return step, best
    raise AssertionError("the held-out loss should rise")


def test_it_stops_when_the_loss_has_had_no_new_lowest_for_so_long(endless, whole):
    stop, best = expected_end(endless.held_out())
    assert 2 < best < stop < STEPS
    assert (whole.outcome.step, whole.outcome.best_step, whole.outcome.total_steps) == (stop, best, STEPS)
    assert whole.outcome.stopped_early
    assert not endless.outcome.stopped_early
    assert endless.outcome.step == STEPS
    assert whole.recorder.trace() == endless.recorder.trace()[:stop]
    assert whole.recorder.saved[-1].name == f"step-{stop:08d}"
    assert whole.recorder.saved[-1].is_dir()


def test_with_more_patience_than_evaluations_it_goes_to_the_end(tiny_gpt2_dir, tmp_path, endless):
    recipe = ENDLESS.model_copy(update={"early_stopping_patience": STEPS})
    patient = job(tiny_gpt2_dir, tmp_path, recipe)
    assert patient.outcome == endless.outcome
    assert patient.adapter == endless.adapter


def test_losses_that_are_no_numbers_use_up_the_patience(tiny_gpt2_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.training.loop.held_out_loss", lambda *_: math.nan)
    stopped = job(tiny_gpt2_dir, tmp_path, RECIPE.model_copy(update={"register_best": False}))
    assert stopped.outcome.stopped_early
    assert (stopped.outcome.step, stopped.outcome.best_step) == (PATIENCE * RECIPE.eval_every, None)


@pytest.mark.parametrize("before", [0, 1, 2, 3], ids=lambda before: f"{before}-before-the-stop")
@pytest.mark.parametrize("way", ["paused", "killed"])
def test_an_interruption_near_the_stop_changes_nothing(tiny_gpt2_dir, tmp_path, whole, before, way):
    at = whole.outcome.step - before
    recorder = Recorder(pause_after=at) if way == "paused" else Recorder(kill_after=at)
    model = load_adapted(tiny_gpt2_dir, RECIPE)
    if way == "paused":
        outcome = run(model, RECIPE, tmp_path / "run", recorder)
        assert (outcome.paused, outcome.stopped_early, outcome.eval_loss) == (True, False, None)
        assert outcome.weights_step == outcome.step == at
    else:
        with pytest.raises(Killed):
            run(model, RECIPE, tmp_path / "run", recorder, interval=0)
    resumed = job(tiny_gpt2_dir, tmp_path, RECIPE)
    first = resumed.recorder.started_at[0]
    assert first == (at if way == "paused" else at - 1)
    assert resumed.recorder.trace() == whole.recorder.trace()[first:]
    assert recorder.trace()[:first] + resumed.recorder.trace() == whole.recorder.trace()
    assert resumed.held_out().items() <= whole.held_out().items()
    assert resumed.outcome == whole.outcome
    assert resumed.adapter == whole.adapter


def test_a_run_that_has_stopped_stays_so_even_if_a_pause_is_asked_for(tiny_gpt2_dir, tmp_path, whole):
    job(tiny_gpt2_dir, tmp_path, RECIPE)
    recorder = Recorder()
    recorder.should_pause = lambda: True  # type: ignore[method-assign]
    again = job(tiny_gpt2_dir, tmp_path, RECIPE, recorder)
    assert again.outcome == whole.outcome
    assert again.adapter == whole.adapter
    assert (recorder.events, recorder.saved) == ([], [])


def test_the_registered_adapter_is_the_best_checkpoints(tiny_gpt2_dir, tmp_path, whole):
    best = whole.outcome.best_step
    assert whole.outcome.weights_step == best
    saved = load_file(whole.checkpoints / f"step-{best:08d}" / "weights.safetensors")
    model = load_adapted(tiny_gpt2_dir, RECIPE)
    with torch.no_grad():
        for name, weight in trainable_weights(model).items():
            weight.copy_(saved[name])
    assert adapter_bytes(model, tmp_path / "best") == whole.adapter
    assert (
        held_out_loss(choose_backend(model, 0), model, make_rows(5, seed=8), RECIPE.batch_size)
        == whole.outcome.eval_loss
    )
    assert whole.outcome.eval_loss == min(whole.held_out().values())


def test_without_register_best_the_last_adapter_stays(tiny_gpt2_dir, tmp_path, whole):
    last = job(tiny_gpt2_dir, tmp_path, RECIPE.model_copy(update={"register_best": False}))
    assert last.outcome.weights_step == last.outcome.step == whole.outcome.step
    assert last.outcome.eval_loss == whole.held_out()[whole.outcome.step]
    assert last.adapter != whole.adapter


def test_a_last_step_that_is_the_best_needs_no_loading(tiny_gpt2_dir, tmp_path):
    recipe = ENDLESS.model_copy(update={"register_best": True, "lora_dropout": 0.0, "epochs": 30})
    rows, model, recorder = make_rows(4), load_adapted(tiny_gpt2_dir, recipe), Recorder()
    outcome = run(model, recipe, tmp_path, recorder, rows=rows, held_out=rows)
    assert outcome.weights_step == outcome.best_step == outcome.step == recorder.records[-1].step
    assert not outcome.stopped_early
    assert held_out_loss(choose_backend(model, 0), model, rows, recipe.batch_size) == outcome.eval_loss


def test_a_damaged_best_checkpoint_is_an_error_that_names_it(tiny_gpt2_dir, tmp_path):
    done = job(tiny_gpt2_dir, tmp_path, RECIPE)
    weights = done.checkpoints / f"step-{done.outcome.best_step:08d}" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(BestCheckpointLost, match=f"step-{done.outcome.best_step:08d}, is damaged .* not what was"):
        job(tiny_gpt2_dir, tmp_path, RECIPE)


def test_a_loss_that_is_no_number_is_never_the_best():
    progress = Progress().evaluated(1, float("nan"))
    assert (progress.eval_step, progress.best_step) == (1, None)
    progress = progress.evaluated(2, 3.0).evaluated(3, float("nan"))
    assert (progress.best_step, progress.best_loss) == (2, 3.0)


def test_a_job_paused_by_a_version_without_these_fields_goes_on(tiny_gpt2_dir, tmp_path, endless):
    paused = job(tiny_gpt2_dir, tmp_path, ENDLESS, Recorder(pause_after=7))
    unsay(paused.recorder.saved[-1], "recipe.early_stopping_patience", "recipe.register_best")
    with pytest.raises(CheckpointMismatch, match=r"early_stopping_patience was None, is 2; .*register_best was False"):
        job(tiny_gpt2_dir, tmp_path, RECIPE)
    resumed = job(tiny_gpt2_dir, tmp_path, ENDLESS)
    assert resumed.recorder.started_at[0] == 7
    assert resumed.recorder.trace() == endless.recorder.trace()[7:]
    assert resumed.outcome == endless.outcome
    assert resumed.adapter == endless.adapter


@pytest.mark.parametrize("field", [{"early_stopping_patience": 3}, {"register_best": True}])
def test_what_goes_by_held_out_losses_needs_them(field):
    (name,) = field
    with pytest.raises(ValidationError, match=f"{name} needs eval_every"):
        TrainingRecipe(**field)
    assert getattr(TrainingRecipe(**field, eval_every=5), name) == field[name]


def test_patience_is_at_least_one():
    with pytest.raises(ValidationError, match="early_stopping_patience"):
        TrainingRecipe(early_stopping_patience=0, eval_every=5)
