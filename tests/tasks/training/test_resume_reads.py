"""A resume reads its checkpoint once, whoever asks what is in it, on however many devices."""

from pathlib import Path

import pytest
import torch

from configs.recipe import TrainingRecipe
from tasks.training.checkpoint_list import folders
from tasks.training.devices import TrainingRun, load, train_on_devices
from tasks.training.fitting import MemoryPlanner
from tasks.training.saved_run import SavedRun
from tests.file_opens import counted_opens
from tests.tasks.training.job import Recorder, Start, make_rows

ROWS, HELD_OUT = make_rows(13), make_rows(5, seed=8)
LENGTHS = [len(row.input_ids) for row in ROWS]
RECIPE = TrainingRecipe(max_steps=4, batch_size=6, eval_every=2)
RECIPES = {
    "lora": RECIPE.model_copy(update={"lora_r": 64}),
    "full": RECIPE.model_copy(update={"method": "full", "learning_rate": 1e-3}),
    "sharded lora": RECIPE.model_copy(update={"lora_r": 64, "devices": 2, "sharding": "full"}),
    "sharded full": RECIPE.model_copy(
        update={"method": "full", "learning_rate": 1e-3, "devices": 2, "sharding": "full"}
    ),
}


class ReadingRecorder(Recorder):
    """Notes how many bytes this process had read when the run went on."""

    read_at_start = 0

    def on_start(self, step: int, total_steps: int, total_epochs: int) -> None:
        super().on_start(step, total_steps, total_epochs)
        self.read_at_start = bytes_read()


def bytes_read() -> int:
    """What this process has asked the kernel to read, from files, their cached copies and pipes."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def attempt(folder: Path, recipe: TrainingRecipe, checkpoints: Path, recorder: Recorder, log=pytest.fail) -> int:
    """Do what the `train` task does; return the bytes read before."""
    origin = Start(folder)
    model = load(origin, recipe)
    before = bytes_read()
    saved_run = SavedRun(checkpoints, log)
    planner = MemoryPlanner(model, recipe, LENGTHS, torch.float32, saved_run, 10**12, lambda _: None, origin.device)

    def run(plan, background_saves):
        one = TrainingRun(
            recipe=recipe,
            train_rows=ROWS,
            held_out_rows=HELD_OUT,
            pad_token_id=0,
            saved_run=saved_run,
            data_fingerprint="rows-v1",
            compute_dtype=torch.float32,
            checkpoint_interval=0.0,
            background_saves=background_saves,
            plan=plan,
        )
        return train_on_devices(one, origin, model, recorder, recorder.should_pause)

    planner.train(run)
    return before


@pytest.mark.parametrize("kind", RECIPES)
def test_every_file_is_opened_once_and_every_byte_read_once(tiny_llama_dir, tmp_path, kind):
    attempt(tiny_llama_dir, RECIPES[kind], tmp_path, Recorder(pause_after=2))
    files = sorted(folders(tmp_path)[0].iterdir())
    size = sum(file.stat().st_size for file in files)
    resumed = ReadingRecorder()
    with counted_opens(*files) as opens:
        before = attempt(tiny_llama_dir, RECIPES[kind], tmp_path, resumed)
    assert resumed.started_at[0] == 2
    assert len(files) == 5
    assert opens == dict.fromkeys(files, 1)
    read = resumed.read_at_start - before
    assert size <= read < 1.5 * size


def test_damaged_checkpoints_are_read_once_too_and_named(tiny_llama_dir, tmp_path):
    recipe = RECIPES["full"]
    attempt(tiny_llama_dir, recipe, tmp_path, Recorder(pause_after=3))
    damaged, good = folders(tmp_path)
    last = damaged / "rng.safetensors"
    content = last.read_bytes()
    last.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    resumed = Recorder()
    lines: list[str] = []
    with counted_opens(*damaged.iterdir(), *good.iterdir()) as opens:
        files = [*damaged.iterdir(), *good.iterdir()]
        attempt(tiny_llama_dir, recipe, tmp_path, resumed, lines.append)
    assert resumed.started_at[0] == 2
    assert opens == dict.fromkeys(files, 1)
    assert lines == [
        f"checkpoint {damaged} is not complete and is skipped: ValueError: rng.safetensors is not what was written"
    ]
