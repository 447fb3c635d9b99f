"""A checkpoint that is written beside the steps holds the state that it was taken of, and fails as loudly as any."""

import errno
import json
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from configs.recipe import TrainingRecipe
from tasks.training.checkpoint_list import folders
from tasks.training.methods import METHODS
from tests.small_disk import filling, small_disk
from tests.tasks.training.job import Killed, Recorder, Start, run

RECIPE = TrainingRecipe(method="full", max_steps=8, batch_size=2, learning_rate=1e-3)
PATIENCE_SECONDS = 120.0


@dataclass
class Holding(Recorder):
    """Holds the first checkpoint back, when all of it is on disk, until a later step is done."""

    until_step: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    held: list[int] = field(default_factory=list)

    def on_step(self, record):
        if record.step == self.until_step:
            self.reached.set()
        super().on_step(record)

    def before_checkpoint(self, step):
        self.held.append(step)
        assert self.reached.wait(PATIENCE_SECONDS)


@dataclass
class Refused(Recorder):
    """Forbids a checkpoint, as a job does that is another process's by now."""

    refuse: int = 0

    def before_checkpoint(self, step):
        if step >= self.refuse:
            raise PermissionError(f"step {step} is not yours to save")


def train(folder, checkpoints, recorder, interval=3600.0, *, background=True):
    model = METHODS["full"].load(Start(folder), RECIPE)
    return run(model, RECIPE, checkpoints, recorder, held_out=[], interval=interval, background=background)


def hashes(checkpoint: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((checkpoint / "manifest.json").read_text())["sha256"]
    return found


@pytest.fixture(scope="module")
def expected(tiny_llama_dir, tmp_path_factory):
    """Of an undisturbed run that saves between its steps: what each checkpoint holds, and what it reported."""
    kept = {}

    class Keeping(Recorder):
        def on_checkpoint(self, step, path):
            super().on_checkpoint(step, path)
            kept[step] = hashes(path)

    recorder = Keeping()
    train(tiny_llama_dir, tmp_path_factory.mktemp("expected"), recorder, 0.0, background=False)
    assert list(kept) == list(range(9))
    assert len({one["optimizer.safetensors"] for one in kept.values()}) == len(kept)
    return kept, recorder.trace()


def test_steps_go_on_while_a_checkpoint_is_written_and_it_holds_what_it_was_taken_of(
    tiny_llama_dir, tmp_path, expected
):
    kept, trace = expected
    recorder = Holding(until_step=5)
    train(tiny_llama_dir, tmp_path, recorder, interval=1e-9)
    # Not one between the first, which was held back through five steps, and the end of its writing.
    assert recorder.held[0] == 0
    assert recorder.held[1] >= 5
    assert [int(path.name.removeprefix("step-")) for path in recorder.saved] == recorder.held
    assert recorder.held[-1] == 8
    assert {path.name: hashes(path) for path in folders(tmp_path)} == {
        f"step-{step:08d}": kept[step] for step in recorder.held[-2:]
    }
    assert recorder.trace() == trace


def test_a_pause_waits_for_the_checkpoint_before_it_and_writes_its_own(tiny_llama_dir, tmp_path, expected):
    kept, trace = expected
    recorder = Holding(until_step=3, pause_after=3)
    assert train(tiny_llama_dir, tmp_path, recorder, interval=1e-9).paused
    assert recorder.held == [0, 3]
    assert [hashes(path) for path in folders(tmp_path)] == [kept[3], kept[0]]
    resumed = Recorder()
    train(tiny_llama_dir, tmp_path, resumed, interval=1e-9)
    assert recorder.trace() + resumed.trace() == trace
    assert hashes(folders(tmp_path)[0]) == kept[8]


def test_without_an_interval_every_step_is_saved_one_at_a_time(tiny_llama_dir, tmp_path, expected):
    kept, _ = expected
    recorder = Recorder()
    train(tiny_llama_dir, tmp_path, recorder, interval=0.0)
    assert [path.name for path in recorder.saved] == [f"step-{step:08d}" for step in range(9)]
    assert [hashes(path) for path in folders(tmp_path)] == [kept[8], kept[7]]


def test_an_attempt_that_ends_in_an_error_waits_for_what_is_being_written(tiny_llama_dir, tmp_path, expected):
    kept, _ = expected
    recorder = Holding(until_step=4, kill_after=4)
    with pytest.raises(Killed):
        train(tiny_llama_dir, tmp_path, recorder, interval=1e-9)
    assert [path.name for path in recorder.saved] == ["step-00000000"]
    assert [hashes(path) for path in folders(tmp_path)] == [kept[0]]


@pytest.mark.parametrize("background", [True, False])
def test_a_process_that_may_not_save_any_more_leaves_the_folder_as_it_was(tiny_llama_dir, tmp_path, background):
    recorder = Refused(refuse=2)
    with pytest.raises(PermissionError, match="step 2 is not yours to save"):
        train(tiny_llama_dir, tmp_path, recorder, interval=0.0, background=background)
    assert len(recorder.records) == (3 if background else 2)
    assert [path.name for path in folders(tmp_path)] == ["step-00000001", "step-00000000"]


@pytest.mark.parametrize("background", [True, False])
def test_a_full_disk_is_an_error_between_two_steps_and_the_run_goes_on_once_there_is_room(
    tiny_llama_dir, tmp_path, expected, background
):
    kept, trace = expected
    disk = tmp_path / "disk"
    with small_disk(disk, 16 * 2**20), filling(disk) as fill:

        class Filling(Recorder):
            def on_step(self, record):
                super().on_step(record)
                if record.step == 3:
                    fill(2**16)

        recorder = Filling()
        with pytest.raises(OSError, match="No space left") as full:
            train(tiny_llama_dir, disk / "run", recorder, interval=0.0, background=background)
        assert full.value.errno == errno.ENOSPC
        # Beside the steps, one more is done before the error is noticed.
        newest = recorder.records[-1].step - (2 if background else 1)
        assert folders(disk / "run")[0].name == f"step-{newest:08d}"
        fill(8 * 2**20)
        resumed = Recorder()
        train(tiny_llama_dir, disk / "run", resumed, interval=0.0, background=background)
        assert resumed.trace() == trace[resumed.started_at[0] :]
        assert hashes(folders(disk / "run")[0]) == kept[8]


# Each attempt is a fork of a process that has everything imported, killed at a random moment.
KILLED_AT_RANDOM = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import torch
from tests.tasks.training.job import Recorder
from tests.tasks.training.test_saves import train

class Starting(Recorder):
    def on_start(self, *arguments):
        os.write(begun, b"!")

torch.set_num_threads(1)
model, checkpoints = Path(sys.argv[1]), Path(sys.argv[2])
begins, begun = os.pipe()
torn = attempts = 0
while torn < 5 and attempts < 200:
    attempts += 1
    child = os.fork()
    if child == 0:
        train(model, checkpoints, Starting(), interval=0.0)
        os._exit(0)
    os.read(begins, 1)
    time.sleep(random.uniform(0.0, 0.1))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if status == 0:
        shutil.rmtree(checkpoints)  # it was quicker: another one
    torn += any(checkpoints.glob(".unfinished-*"))
print("RESULT", torn)
"""


def test_runs_killed_while_they_write_go_on_to_the_same_bytes(tiny_llama_dir, tmp_path, expected):
    kept, trace = expected
    command = [sys.executable, "-c", KILLED_AT_RANDOM, str(tiny_llama_dir), str(tmp_path / "run")]
    finished = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert int(finished.stdout.rpartition("RESULT ")[2]) >= 5
    resumed = Recorder()
    train(tiny_llama_dir, tmp_path / "run", resumed, interval=0.0)
    assert resumed.trace() == trace[resumed.started_at[0] :]
    assert hashes(folders(tmp_path / "run")[0]) == kept[8]
    assert not list((tmp_path / "run").glob(".unfinished-*"))
