"""One shape of a training step, measured in a process of its own.

The rows are of random tokens, all as long as they may be and learned throughout: the most that such a step can take.
The weights are random too, as memory and time depend on their shape alone. CPU only.
"""

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from types import SimpleNamespace

import psutil
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel

from bench import bare_loop
from bench.training import ROOT
from configs.recipe import Method, TrainingRecipe
from tasks.training.adapter import attach_lora
from tasks.training.estimate import BackendName
from tasks.training.fitting import workload_of
from tasks.training.observer import StepRecord
from tasks.training.planning import StepPlan
from tests.tiny_families import sized_model

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


def model_of(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model of `MODELS`, or one of a family that weighs little and computes much."""
    if name in MODELS:
        return AutoModelForCausalLM.from_config(MODELS[name], dtype=dtype)
    return sized_model(name, dtype, width=16, layers=8, vocabulary=16384)


@dataclass(frozen=True)
class Point:
    """One shape of a step, and how often it is done."""

    path: BackendName
    rows: int
    length: int
    rank: int = 8
    recompute: bool = False
    dtype: str = "bfloat16"
    model: str = "smollm2"
    method: Method = "lora"
    steps: int = 2
    background_saves: bool = False
    """Whether each step is saved, from a copy; else there is one checkpoint, at the end."""


@dataclass(frozen=True)
class Figures:
    """What a point took. The first step does not count for the speed."""

    peak_bytes: int
    """How much the process's peak grew over what it had once everything was imported."""
    estimated_bytes: int
    """What a job of this shape is planned by."""
    tokens_per_second: float
    tokens_per_cpu_second: float


class Stopwatch(bare_loop.StepListener):
    """Notes of each step its end, by the clock and in processor seconds."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def on_step(self, record: StepRecord) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))


def train(point: Point) -> Figures:
    """Train the point's steps in this process."""
    adapter = {} if point.method == "full" else {"lora_r": point.rank}
    recipe = TrainingRecipe(
        method=point.method, batch_size=point.rows, max_steps=point.steps, max_seq_length=point.length, **adapter
    )
    plan = StepPlan(point.rows, point.recompute)
    ids = torch.randint(3, 300, (point.rows, point.length), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [SimpleNamespace(input_ids=row, labels=row, weights=None) for row in ids]
    before = psutil.Process().memory_info().rss
    dtype = getattr(torch, point.dtype)
    if point.method == "full":
        model = model_of(point.model, torch.float32)
    else:
        model = attach_lora(model_of(point.model, dtype), recipe)
    workload = workload_of(model, recipe, [point.length] * point.rows, point.path, dtype)
    assert workload is not None
    watch = Stopwatch()
    bare_loop.train(
        model,
        rows,
        recipe,
        watch,
        pad_token_id=0,
        backend=point.path,
        compute_dtype=dtype,
        plan=plan,
        background_saves=point.background_saves,
    )
    (began, cpu_began), (ended, cpu_ended) = watch.ends[0], watch.ends[-1]
    tokens = (point.steps - 1) * point.rows * point.length
    return Figures(
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
        estimated_bytes=workload.peak_with_copy(plan) if point.background_saves else workload.peak(plan),
        tokens_per_second=tokens / (ended - began),
        tokens_per_cpu_second=tokens / (cpu_ended - cpu_began),
    )


def measure(point: Point) -> Figures:
    """Return what `train` returns, of a process of its own."""
    command = [sys.executable, "-m", "bench.training_points", json.dumps(asdict(point))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    return Figures(**json.loads(finished.stdout))


if __name__ == "__main__":
    print(json.dumps(asdict(train(Point(**json.loads(sys.argv[1]))))))
