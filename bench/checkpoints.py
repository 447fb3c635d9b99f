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
from bench.training import ROOT
from bench.training_devices import MODEL, Row
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
    """Notes when steps end, and the steps of complete checkpoints."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.saved: list[int] = []

    def on_step(self, record: StepRecord) -> None:
        self.ends.append(time.perf_counter())

    def on_checkpoint(self, step: int, path: Path) -> None:
        self.saved.append(step)


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


def measure(way: str, arguments: argparse.Namespace) -> tuple[list[float], int]:
    """Return the seconds between the ends of steps, and how many checkpoints were made meanwhile."""
    options = [f"--{name}={getattr(arguments, name)}" for name in ("steps", "interval", "rows", "length")]
    command = [sys.executable, "-m", "bench.checkpoints", *options, f"--way={way}"]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}  # as the platform's trainer has it
    finished = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    noted = json.loads(finished.stdout)
    gaps = [after - before for before, after in pairwise(noted["ends"])][SKIPPED:]
    return gaps, sum(SKIPPED < step < arguments.steps for step in noted["saved"])


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
        print(json.dumps({"ends": watch.ends, "saved": watch.saved}))
        return
    print("| checkpoints | step, median s | longest step, s | checkpoints | lost to one, s |")
    print("| --- | --- | --- | --- | --- |")
    for number in range(arguments.rounds):
        undisturbed = 0.0
        for way in WAYS:
            gaps, saved = measure(way, arguments)
            undisturbed = undisturbed or statistics.fmean(gaps)
            lost = f"{(sum(gaps) - len(gaps) * undisturbed) / saved:.2f}" if saved else ""
            numbers = f"{statistics.median(gaps):.2f} | {max(gaps):.2f} | {saved} | {lost}"
            print(f"| {way} ({number + 1}) | {numbers} |", flush=True)
    print(f"load of the machine (1 min): {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
