"""Our training loop: `python -m bench.training_peers.ours packed|padded`, with the share of the roofline it reaches."""

import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
from transformers import AutoTokenizer

from bench import bare_loop
from bench.training_peers import meter as bench
from configs.recipe import TrainingRecipe
from tasks.models.loading import load_base_model
from tasks.training.adapter import attach_lora
from tasks.training.estimate import BackendName
from tasks.training.observer import StepRecord


class Counter(bare_loop.StepListener):
    """The loop's observer: it reports the steps and their tokens to the meter."""

    def __init__(self, meter: bench.Meter) -> None:
        self.meter = meter

    def on_step(self, record: StepRecord) -> None:
        self.meter.tokens += record.tokens
        self.meter.step()


def flops_per_token(config: object, tokens: int, labelled: int, squares: int) -> float:
    """Return the model's floating-point operations per token, forward and backward, without those nobody needs.

    A frozen weight costs a product forward and one backward, each 2 operations; logits count where a token is
    labelled; attention, which has no frozen side, costs twice as much backward, over the `squares` of the row lengths,
    half of them below the diagonal.
    """
    c = config
    heads = c.hidden_size // c.num_attention_heads * (2 * c.num_attention_heads + 2 * c.num_key_value_heads)
    weights = c.num_hidden_layers * c.hidden_size * (heads + 3 * c.intermediate_size)
    attention = c.num_hidden_layers * 3 * 2 * c.hidden_size * squares / tokens
    return 4 * weights + 4 * c.vocab_size * c.hidden_size * labelled / tokens + attention


def product_rate() -> float:
    """Return the bfloat16 operations per second of a 2048 cubed matrix product."""
    a, b = torch.randn(2, 2048, 2048, dtype=torch.bfloat16)
    times = []
    for _ in range(15):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return 2 * 2048**3 / statistics.median(times[3:])


def main(kind: BackendName) -> None:
    """Train with the recipe of the other tools."""
    meter = bench.Meter(f"ours-{kind}", hook=False)
    tokenizer = AutoTokenizer.from_pretrained(bench.MODEL)
    rows = [SimpleNamespace(**bench.encode(tokenizer, *example), weights=None) for example in bench.examples()]
    recipe = TrainingRecipe(
        batch_size=bench.BATCH,
        max_steps=bench.WARMUP + bench.STEPS,
        learning_rate=bench.RATE,
        lora_r=bench.RANK,
        lora_alpha=bench.ALPHA,
        lora_dropout=bench.DROPOUT,
    )
    model = attach_lora(load_base_model(Path(bench.MODEL), torch.bfloat16, torch.device("cpu")), recipe)
    bare_loop.train(model, rows, recipe, Counter(meter), pad_token_id=tokenizer.eos_token_id, backend=kind)
    lengths = [len(row.input_ids) for row in rows]
    labelled = sum(label != -100 for row in rows for label in row.labels)
    flops = flops_per_token(model.config, sum(lengths), labelled, sum(length**2 for length in lengths))
    meter.extra = {"flops_per_token": flops, "product_rate": product_rate()}


if __name__ == "__main__":
    main(cast(BackendName, sys.argv[1]))
