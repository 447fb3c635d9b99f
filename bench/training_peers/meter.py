"""The rows every tool trains on, and the meter: one hook that stamps the optimizer steps of whatever tool runs.

Runs in the tools' own environments, so it imports nothing of the platform. The settings come by the environment from
`bench.training`. One line `RESULT {json}` is printed at exit.
"""

import atexit
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

MODEL = os.environ.get("BENCH_MODEL", "")
DATA = Path(os.environ.get("BENCH_DATA", ""))
STEPS = int(os.environ.get("BENCH_STEPS", "8"))
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
WARMUP = 1
ROWS = 256
BATCH = 8
PACKED_BATCH = 3
"""Packed rows of the greatest length that hold about as much."""
MAX_LENGTH = 512
RANK, ALPHA, DROPOUT, RATE = 8, 32, 0.05, 2e-4


def examples() -> list[tuple[str, str]]:
    """Return the first questions and answers of a gsm8k (JSONL) or an alpaca (JSON) file."""
    text = DATA.read_text(encoding="utf-8")
    if DATA.suffix == ".jsonl":
        rows = [json.loads(line) for line in text.splitlines()[:ROWS]]
        return [(row["question"], row["answer"]) for row in rows]
    return [(f"{row['instruction']}\n{row['input']}".strip(), row["output"]) for row in json.loads(text)[:ROWS]]


def encode(tokenizer: Any, question: str, answer: str) -> dict[str, list[int]]:
    """Return the chat template's ids, and labels that leave out the question."""
    asked = [{"role": "user", "content": question}]
    answered = [*asked, {"role": "assistant", "content": answer}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(answered, tokenize=False)
    prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
    ids = tokenizer(whole, add_special_tokens=False).input_ids[:MAX_LENGTH]
    hidden = min(len(prompt_ids), len(ids))
    return {"input_ids": ids, "labels": [-100] * hidden + ids[hidden:], "attention_mask": [1] * len(ids)}


def _age() -> float:
    """Return the seconds since the kernel started this process."""
    started = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - started / os.sysconf("SC_CLK_TCK")


class Meter:
    """Counts the tokens that go in and the time at which each optimizer step is done."""

    def __init__(self, name: str, *, hook: bool = True) -> None:
        import torch
        from torch.optim.optimizer import register_optimizer_step_post_hook

        torch.set_num_threads(THREADS)
        self.name, self.tokens, self.first_step = name, 0, 0.0
        self.extra: dict[str, Any] = {}
        self._marks: list[tuple[float, float, int]] = []
        if hook:
            register_optimizer_step_post_hook(lambda *_: self.step())
        atexit.register(self.report)

    def step(self) -> None:
        """Note the end of an optimizer step."""
        self.first_step = self.first_step or _age()
        self._marks.append((time.perf_counter(), time.process_time(), self.tokens))

    def report(self) -> None:
        """Print what was measured after the warm-up."""
        (began, cpu_began, before), (ended, cpu_ended, after) = self._marks[WARMUP - 1], self._marks[-1]
        figures = {
            "tool": self.name,
            "tokens_per_second": (after - before) / (ended - began),
            "tokens_per_cpu_second": (after - before) / (cpu_ended - cpu_began),
            "first_step_seconds": self.first_step,
            "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }
        print("RESULT", json.dumps(figures | self.extra), flush=True)


def real_tokens(inputs: dict[str, Any]) -> int:
    """Return how many of a batch's tokens are no padding.

    Mask: (rows, tokens) of 0 and 1; or (rows, 1, tokens, tokens) to add, 0 where a token sees another one: padding sees
    nothing; or none, where there is no padding.
    """
    mask = inputs.get("attention_mask")
    if mask is None:
        return int(inputs["input_ids"].numel())
    return int((mask == 0).any(-1).sum() if mask.ndim == 4 else mask.sum())


def meter_trainer(name: str) -> None:
    """Meter `transformers.Trainer` and what derives from it."""
    import transformers

    meter, inner = Meter(name), transformers.Trainer.training_step

    def training_step(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        meter.tokens += real_tokens(inputs)
        return inner(self, model, inputs, *rest, **named)

    transformers.Trainer.training_step = training_step
