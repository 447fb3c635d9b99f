"""How long steps wait for checkpoints of a full-parameter run: `python -m bench.checkpoints` (after `make model`).

Every weight of the starter model trains on rows of random tokens, in a process of its own for each way to save: never,
between two steps, and from a copy beside them. A checkpoint comes as soon as `--interval` seconds have passed since the
last one: far more often than in a job, where at most 1% of the time goes into them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch

from bench.bare_loop import StepListener
from bench.training import MODEL, ROOT
from bench.training_devices import Row
from configs.recipe import TrainingRecipe
from tasks.training import loop, saves
from tasks.training.devices import Weights
from tasks.training.methods import METHODS
from tasks.training.observer import StepRecord
from tasks.training.saved_run import SavedRun

WAYS = ("never", "between steps", "beside steps")
SKIPPED = 2
NEVER = 1e9


class Watch(StepListener):
    """Notes when steps end and how long they compute, and beside which a checkpoint was written."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.seconds: list[float] = []
        self.saved: list[int] = []
        self.beside: list[int] = []

    def on_step(self, record: StepRecord) -> None:
        self.ends.append(time.perf_counter())
        self.seconds.append(record.seconds)

    def on_checkpoint(self, step: int, path: Path) -> None:
        self.saved.append(step)
        self.beside += range(step + 1, len(self.ends) + 1)


def train(way: str, steps: int, interval: float, rows: int, length: int) -> Watch:
    """Train in this process; the checkpoint at the end, which no step waits for, does not count."""
    saves.MOST_SAVING = 1.0
    recipe = TrainingRecipe(method="full", learning_rate=2e-5, batch_size=rows, max_steps=steps, max_seq_length=length)
    origin = Weights(MODEL, str(MODEL), None, torch.device("cpu"), torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    data = [Row(torch.randint(10, 49_000, (length,), generator=generator).tolist()) for _ in range(64)]
    watch = Watch()
    with tempfile.TemporaryDirectory(dir=ROOT / "data") as folder:
        loop.train(
            METHODS["full"].load(origin, recipe),
            data,
            [],
            recipe,
            pad_token_id=0,
            saved_run=SavedRun(Path(folder)),
            data_fingerprint="bench",
            observer=watch,
            should_pause=lambda: False,
            checkpoint_interval=NEVER if way == "never" else interval,
            background_saves=way == "beside steps",
            compute_dtype=torch.bfloat16,
        )
    return watch


def measure(way: str, arguments: argparse.Namespace) -> Watch:
    """Return what `train` returns, of a process of its own."""
    options = [f"--{name}={getattr(arguments, name)}" for name in ("steps", "interval", "rows", "length")]
    command = [sys.executable, "-m", "bench.checkpoints", *options, f"--way={way}"]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}  # as the platform's trainer has it
    finished = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    watch = Watch()
    watch.__dict__ |= json.loads(finished.stdout)
    return watch


def row(way: str, watch: Watch) -> str:
    """Return a line of the table: steps by themselves and beside a write, and the waits between two of them."""
    numbered = list(enumerate(watch.seconds, start=1))[SKIPPED:]
    alone = [seconds for step, seconds in numbered if step not in watch.beside]
    beside = [seconds for step, seconds in numbered if step in watch.beside]
    ends, seconds = watch.ends[SKIPPED - 1 :], watch.seconds[SKIPPED:]
    waits = [after - before - computed for (before, after), computed in zip(pairwise(ends), seconds, strict=True)]
    saved = [step for step in watch.saved if SKIPPED <= step < len(watch.ends)]
    stalls = [wait for step, wait in enumerate(waits, start=SKIPPED) if step in saved]
    cells = [way, f"{statistics.median(alone):.2f}", f"{statistics.median(beside):.2f}" if beside else ""]
    cells += [f"{statistics.median(stalls):.2f}", f"{max(stalls):.2f}"] if stalls else ["", ""]
    return f"| {' | '.join([*cells, str(len(saved)), f'{ends[-1] - ends[0]:.1f}'])} |"


def main() -> None:
    """Measure the ways by turns; print for each the step and what checkpoints add to it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--interval", type=float, default=10.0)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        watch = train(arguments.way, arguments.steps, arguments.interval, arguments.rows, arguments.length)
        print(json.dumps(vars(watch)))
        return
    print(
        "| checkpoints | step, median s | beside a write | wait for a save, median s | longest | saves | all steps, s |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for _ in range(arguments.rounds):
        for way in WAYS:
            print(row(way, measure(way, arguments)), flush=True)
    print(f"load of the machine (1 min): {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
