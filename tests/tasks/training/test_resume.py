"""A run that was paused, crashed or killed gives bit for bit what an uninterrupted one gives."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from configs.recipe import TrainingRecipe
from tasks.training.adapter import attach_lora
from tasks.training.checkpoint import latest_checkpoint
from tasks.training.errors import CheckpointMismatch
from tasks.training.methods import METHODS
from tests.tasks.training.job import Killed, Recorder, Start, adapter_bytes, load_adapted, run, unsay

RECIPE = TrainingRecipe(
    epochs=3,
    batch_size=2,
    gradient_accumulation=2,
    learning_rate=1e-2,
    lora_r=4,
    lora_dropout=0.2,
    lr_scheduler="cosine",
    warmup_ratio=0.2,
    eval_every=3,
)
OLDER_PARTS = ("adapter", "optimizer", "rng")
STEPS = 12  # 14 rows in steps of 4: the last step of each epoch has 2 rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "background"), [("tiny-llama", True), ("tiny-gpt2", True), ("tiny-llama", False)])
def test_paused_and_crashed_runs_equal_an_uninterrupted_one(tiny_models_dir, tmp_path, name, background, dtype):
    folder = tiny_models_dir / name
    whole, model = Recorder(), load_adapted(folder, RECIPE, dtype)
    outcome = run(model, RECIPE, tmp_path / "whole", whole)
    expected = adapter_bytes(model, tmp_path / "whole-adapter")
    assert (outcome.paused, outcome.step, outcome.total_steps) == (False, STEPS, STEPS)
    assert len({loss for _, _, loss in whole.events}) == len(whole.events)

    paused = Recorder()
    for pause_after in (2, 5, 9, None):  # each in another place of an epoch; 9 has an evaluation to come
        paused.pause_after = pause_after
        model = load_adapted(folder, RECIPE, dtype)
        torch.rand(pause_after or 1)  # whatever else this process draws must not matter
        outcome = run(model, RECIPE, tmp_path / "paused", paused, background=background)
        assert outcome.paused == (pause_after is not None)
        if pause_after:
            checkpoint = latest_checkpoint(tmp_path / "paused", pytest.fail)
            assert checkpoint is not None
            assert checkpoint.state.progress.cursor.step == outcome.step == pause_after
    assert paused.started_at[::3] == [0, 2, 5, 9]
    assert paused.trace() == whole.trace()
    assert paused.events == whole.events
    assert adapter_bytes(model, tmp_path / "paused-adapter") == expected

    crashed = Recorder(pause_after=3)
    run(load_adapted(folder, RECIPE, dtype), RECIPE, tmp_path / "crashed", crashed, background=background)
    crashed.pause_after, crashed.kill_after = None, 7
    with pytest.raises(Killed):
        run(load_adapted(folder, RECIPE, dtype), RECIPE, tmp_path / "crashed", crashed, background=background)
    before = crashed.trace()
    again = Recorder()
    model = load_adapted(folder, RECIPE, dtype)
    assert run(model, RECIPE, tmp_path / "crashed", again, background=background) == outcome
    losses = {step: loss for kind, step, loss in whole.events if kind == "evaluation"}
    saved = 6 if losses[6] < losses[3] else 3  # the best is kept as soon as it is known
    assert again.started_at[0] == saved
    assert before[saved:] == again.trace()[: 7 - saved]
    assert before[:saved] + again.trace() == whole.trace()
    assert adapter_bytes(model, tmp_path / "crashed-adapter") == expected


KILLED_JOB = """
import os, signal, sys
from pathlib import Path
import torch
from tests.tasks.training.job import Recorder, load_adapted, run
from tests.tasks.training.test_resume import RECIPE

class Dies(Recorder):
    def on_step(self, record):
        if record.step == 6:
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)  # as in the process that goes on
run(load_adapted(Path(sys.argv[1]), RECIPE), RECIPE, Path(sys.argv[2]), Dies(), interval=0)
"""


def test_a_run_killed_in_another_process_goes_on_in_this_one(tiny_llama_dir, tmp_path):
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", KILLED_JOB, str(tiny_llama_dir), str(tmp_path / "killed")]
    assert subprocess.run(command, cwd=root, check=False).returncode == -signal.SIGKILL

    whole, resumed = Recorder(), Recorder()
    model = load_adapted(tiny_llama_dir, RECIPE)
    run(model, RECIPE, tmp_path / "whole", whole)
    again = load_adapted(tiny_llama_dir, RECIPE)
    run(again, RECIPE, tmp_path / "killed", resumed)
    assert resumed.started_at[0] == 5
    assert resumed.trace() == whole.trace()[5:]
    assert adapter_bytes(again, tmp_path / "a") == adapter_bytes(model, tmp_path / "b")


def test_a_finished_run_ends_at_once_with_the_same_outcome(tiny_llama_dir, tmp_path):
    model = load_adapted(tiny_llama_dir, RECIPE)
    first = run(model, RECIPE, tmp_path / "run", Recorder())
    recorder = Recorder()
    again = load_adapted(tiny_llama_dir, RECIPE)
    assert run(again, RECIPE, tmp_path / "run", recorder) == first
    assert recorder.events == []
    assert recorder.saved == []
    assert adapter_bytes(again, tmp_path / "a") == adapter_bytes(model, tmp_path / "b")


def test_a_pause_after_the_last_step_leaves_the_final_evaluation_to_the_resumed_run(tiny_llama_dir, tmp_path):
    paused, resumed = Recorder(pause_after=STEPS), Recorder()
    outcome = run(load_adapted(tiny_llama_dir, RECIPE), RECIPE, tmp_path, paused)
    assert (outcome.paused, outcome.step, outcome.eval_loss) == (True, STEPS, None)
    outcome = run(load_adapted(tiny_llama_dir, RECIPE), RECIPE, tmp_path, resumed)
    assert not outcome.paused
    assert resumed.events == [("evaluation", STEPS, outcome.eval_loss)]
    assert [path.name for path in resumed.saved] == ["step-00000012"]


def test_a_pause_asked_for_before_the_first_step_is_honoured(tiny_llama_dir, tmp_path):
    recorder = Recorder()
    recorder.should_pause = lambda: True  # type: ignore[method-assign]
    outcome = run(load_adapted(tiny_llama_dir, RECIPE), RECIPE, tmp_path, recorder)
    assert (outcome.paused, outcome.step) == (True, 0)
    whole, resumed = Recorder(), Recorder()
    run(load_adapted(tiny_llama_dir, RECIPE), RECIPE, tmp_path, resumed)
    run(load_adapted(tiny_llama_dir, RECIPE), RECIPE, tmp_path / "whole", whole)
    assert resumed.trace() == whole.trace()


@pytest.mark.parametrize(
    ("change", "fingerprint", "dtype", "named"),
    [
        ({"learning_rate": 2e-2}, "rows-v1", torch.float32, "recipe.learning_rate was 0.01, is 0.02"),
        ({"lora_r": 8}, "rows-v1", torch.float32, "recipe.lora_r"),
        ({}, "rows-v2", torch.float32, "data_fingerprint was 'rows-v1', is 'rows-v2'"),
        ({}, "rows-v1", torch.bfloat16, "compute_dtype was 'torch.float32', is 'torch.bfloat16'"),
    ],
)
def test_a_checkpoint_of_another_run_is_an_error(tiny_llama_dir, tmp_path, change, fingerprint, dtype, named):
    run(load_adapted(tiny_llama_dir, RECIPE), RECIPE, tmp_path, Recorder(pause_after=2))
    other = RECIPE.model_copy(update=change)
    with pytest.raises(CheckpointMismatch, match=named):
        run(load_adapted(tiny_llama_dir, other, dtype), other, tmp_path, Recorder(), fingerprint=fingerprint)


def test_a_checkpoint_of_another_model_is_an_error(tiny_llama_dir, tiny_gpt2_dir, tmp_path):
    run(load_adapted(tiny_llama_dir, RECIPE), RECIPE, tmp_path, Recorder(pause_after=2))
    with pytest.raises(CheckpointMismatch, match="backend was 'packed', is 'padded'"):
        run(load_adapted(tiny_gpt2_dir, RECIPE), RECIPE, tmp_path, Recorder())
    shallow = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, num_hidden_layers=1)
    with pytest.raises(CheckpointMismatch, match="checkpoint's weights are not those of this model"):
        run(attach_lora(shallow, RECIPE), RECIPE, tmp_path, Recorder())


def test_a_damaged_newest_checkpoint_costs_its_steps_and_nothing_else(tiny_llama_dir, tmp_path, caplog):
    whole, stopped, resumed = Recorder(), Recorder(kill_after=8), Recorder()
    run(load_adapted(tiny_llama_dir, RECIPE), RECIPE, tmp_path / "whole", whole)
    with pytest.raises(Killed):
        run(load_adapted(tiny_llama_dir, RECIPE), RECIPE, tmp_path / "run", stopped, interval=0)
    weights = tmp_path / "run/step-00000007/optimizer.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    run(load_adapted(tiny_llama_dir, RECIPE), RECIPE, tmp_path / "run", resumed)
    assert resumed.started_at[0] == 6
    assert resumed.trace() == whole.trace()[6:]
    assert "step-00000007 is not complete and is skipped" in caplog.text
    assert not (tmp_path / "run/step-00000007").exists()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_paused_by_a_version_with_the_first_format_goes_on_to_the_same_bytes(tiny_llama_dir, tmp_path, method):
    recipe = RECIPE.model_copy(update={"method": method})
    whole, paused, resumed = Recorder(), Recorder(pause_after=5), Recorder()

    def attempt(checkpoints: Path, recorder: Recorder) -> None:
        run(METHODS[recipe.method].load(Start(tiny_llama_dir), recipe), recipe, checkpoints, recorder)

    attempt(tmp_path / "whole", whole)
    attempt(tmp_path / "run", paused)
    for folder in paused.saved:
        unsay(folder)
    older = paused.saved[-1]
    assert {path.name for path in older.glob("*.safetensors")} == {f"{part}.safetensors" for part in OLDER_PARTS}
    attempt(tmp_path / "run", resumed)
    assert resumed.started_at[0] == 5
    assert paused.trace() + resumed.trace() == whole.trace()
    assert (resumed.saved[-1] / "manifest.json").read_bytes() == (whole.saved[-1] / "manifest.json").read_bytes()


def test_a_run_begun_before_the_packed_backend_goes_on_without_it(tiny_llama_dir, tmp_path):
    paused, resumed = Recorder(pause_after=5), Recorder()
    run(load_adapted(tiny_llama_dir, RECIPE), RECIPE, tmp_path, paused)
    assert latest_checkpoint(tmp_path, print).state.identity["backend"] == "packed"
    unsay(paused.saved[-1], "path")
    outcome = run(load_adapted(tiny_llama_dir, RECIPE), RECIPE, tmp_path, resumed)
    assert (resumed.started_at[0], outcome.step) == (5, STEPS)
    assert latest_checkpoint(tmp_path, print).state.identity["backend"] == "padded"
