"""Tokens a second of one process with two threads, and of two processes (`devices: 2`) with one thread each.

`python -m bench.training_devices --rounds 3`. The two take turns, so that other work on the machine meets both alike.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench.training import MODEL
from configs.recipe import TrainingRecipe
from tasks.training.devices import TrainingRun, Weights, train_on_devices
from tasks.training.methods import METHODS
from tasks.training.observer import StepRecord
from tasks.training.planning import StepPlan
from tasks.training.saved_run import SavedRun

WARMUP = 2


@dataclass(frozen=True)
class Row:
    """Tokens whose second half is learned."""

    input_ids: list[int]
    weights: None = None

    @property
    def labels(self) -> list[int]:
        half = len(self.input_ids) // 2
        return [-100] * half + self.input_ids[half:]


@dataclass
class Meter:
    """The loop's observer: it keeps the steps after the warm-up."""

    records: list[StepRecord] = field(default_factory=list)

    def on_start(self, step: int, total_steps: int, total_epochs: int) -> None: ...

    def on_step(self, record: StepRecord) -> None:
        if record.step > WARMUP:
            self.records.append(record)

    def on_evaluation(self, step: int, eval_loss: float) -> None: ...

    def before_checkpoint(self, step: int) -> None: ...

    def on_checkpoint(self, step: int, path: Path) -> None: ...

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return sum(record.tokens for record in self.records) / sum(record.seconds for record in self.records)


def rows(count: int) -> list[Row]:
    """Return rows of 100 to 320 random tokens, as long as gsm8k's; what they say does not matter to speed."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(100, 321, (count,), generator=generator).tolist()
    return [Row(torch.randint(10, 49_000, (length,), generator=generator).tolist()) for length in lengths]


def measure(devices: int, steps: int, model_folder: Path, dtype: torch.dtype) -> tuple[float, float]:
    """Train, and return tokens a second and the seconds of the whole run, with the start of its processes."""
    recipe = TrainingRecipe(devices=devices, batch_size=8, max_steps=WARMUP + steps)
    origin = Weights(model_folder, str(model_folder), None, torch.device("cpu"), dtype)
    model, meter = METHODS[recipe.method].load(origin, recipe), Meter()
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(
            recipe=recipe,
            train_rows=rows(256),
            held_out_rows=[],
            pad_token_id=0,
            saved_run=SavedRun(Path(folder)),
            data_fingerprint="bench",
            compute_dtype=dtype,
            checkpoint_interval=1e9,
            background_saves=True,
            plan=StepPlan(recipe.rows_per_device),
        )
        began = time.perf_counter()
        train_on_devices(run, origin, model, meter, lambda: False)
        whole = time.perf_counter() - began
    return meter.speed, whole


def main() -> None:
    """Measure by turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="metered steps of a round, after two more")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(2)
    found: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(options.rounds):
        for devices in (1, 2):
            found[devices].append(measure(devices, options.steps, options.model, getattr(torch, options.dtype)))
            print(f"{devices} process(es): {found[devices][-1][0]:.0f} tokens/s", flush=True)
    print("| processes, threads of each | tokens/s [range] | whole run, s |\n| --- | --- | --- |")
    for devices, figures in found.items():
        speeds = [speed for speed, _ in figures]
        whole = statistics.median(seconds for _, seconds in figures)
        print(
            f"| {devices}, {2 // devices} | {statistics.median(speeds):.0f} [{min(speeds):.0f}-{max(speeds):.0f}] | "
            f"{whole:.1f} |"
        )


if __name__ == "__main__":
    main()
