"""Peak memory of training beside what the plan expects: `python -m bench.training_memory`.

Each point is two optimizer steps in a process of its own, on rows of random tokens that are all as long as they may be
and learned throughout: the most that such a step can take. The weights are random too, as memory depends on their shape
alone. Measured is how much the process's peak grows over what it has once everything is imported. CPU only.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from bench.training import ROOT
from configs.recipe import Method, TrainingRecipe
from tasks.lora import loop
from tasks.lora.adapter import attach_lora
from tasks.lora.estimate import PathName
from tasks.lora.fitting import workload_of
from tasks.lora.path import PaddedPath
from tasks.lora.planning import StepPlan

MODELS = {
    "smollm2": LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "gpt2": GPT2Config(),
}


@dataclass(frozen=True)
class Point:
    """One shape of a step."""

    path: PathName
    rows: int
    length: int
    rank: int = 8
    recompute: bool = False
    dtype: str = "bfloat16"
    model: str = "smollm2"
    method: Method = "lora"


METHODS_PADDED: tuple[Method, ...] = ("dora", "full")
POINTS = [
    *(Point(path, *rows) for path in ("packed", "padded") for rows in ((1, 128), (4, 128), (4, 512), (1, 1024))),
    *(Point("packed", *rows) for rows in ((16, 128), (8, 512), (4, 1024))),
    *(Point(path, *rows, rank=64) for path, rows in (("packed", (4, 512)), ("padded", (2, 512)))),
    *(Point(path, *rows, dtype="float32") for path, rows in (("packed", (4, 512)), ("padded", (2, 512)))),
    *(Point(path, 4, 512, recompute=True) for path in ("packed", "padded")),
    *(Point("padded", *rows, method=method) for method in METHODS_PADDED for rows in ((1, 128), (4, 512))),
    Point("padded", 4, 512, model="gpt2"),
    Point("padded", 4, 512, model="gpt2", dtype="float32"),
]


class Deaf:
    """The loop's observer: it hears nothing."""

    def on_start(self, step: int, total_steps: int, total_epochs: int) -> None: ...

    def on_step(self, record: object) -> None: ...

    def on_evaluation(self, step: int, eval_loss: float) -> None: ...

    def on_checkpoint(self, step: int, path: Path) -> None: ...


def train(point: Point) -> dict[str, int]:
    """Train two steps in this process; return the growth of its peak and the plan's estimate, in bytes."""
    if point.path == "padded":
        loop.choose_path = lambda model, pad_token_id, _begun, dtype, recompute: PaddedPath(
            model, pad_token_id, dtype, recompute=recompute
        )
    adapter = {} if point.method == "full" else {"lora_r": point.rank}
    recipe = TrainingRecipe(
        method=point.method, batch_size=point.rows, max_steps=2, max_seq_length=point.length, **adapter
    )
    plan = StepPlan(point.rows, point.recompute)
    ids = torch.randint(3, 300, (point.rows, point.length), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [SimpleNamespace(input_ids=row, labels=row) for row in ids]
    before = psutil.Process().memory_info().rss
    dtype = getattr(torch, point.dtype)
    if point.method == "full":
        model = AutoModelForCausalLM.from_config(MODELS[point.model], dtype=torch.float32)
    else:
        model = attach_lora(AutoModelForCausalLM.from_config(MODELS[point.model], dtype=dtype), recipe)
    workload = workload_of(model, recipe, [point.length] * point.rows, point.path, dtype)
    assert workload is not None
    with tempfile.TemporaryDirectory() as folder:
        loop.train(
            model,
            rows,
            [],
            recipe,
            pad_token_id=0,
            checkpoints=Path(folder),
            data_fingerprint="bench",
            observer=Deaf(),
            should_pause=lambda: False,
            checkpoint_interval=1e9,
            compute_dtype=dtype,
            plan=plan,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"measured": peak - before, "estimated": workload.peak(plan)}


def measure(point: Point) -> dict[str, Any]:
    """Return what `train` returns, of a process of its own."""
    command = [sys.executable, "-m", "bench.training_memory", json.dumps(asdict(point))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    figures: dict[str, Any] = json.loads(finished.stdout)
    return figures


def main() -> None:
    """Measure every point and print a table."""
    print(
        "| model | method | path | rows x tokens | rank | precision | recomputed | measured, GB | estimated, GB | ÷ |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for point in POINTS:
        figures = measure(point)
        measured, estimated = figures["measured"] / 1e9, figures["estimated"] / 1e9
        print(
            f"| {point.model} | {point.method} | {point.path} | {point.rows} x {point.length} | "
            f"{'' if point.method == 'full' else point.rank} | {point.dtype} | "
            f"{'yes' if point.recompute else ''} | {measured:.2f} | {estimated:.2f} | {estimated / measured:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(train(Point(**json.loads(sys.argv[1])))))
    else:
        main()
