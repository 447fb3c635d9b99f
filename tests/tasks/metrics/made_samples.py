"""Samples drawn from distributions whose true metrics are known."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from configs.recipe import MetricName
from tasks.metrics.formulas import bleu
from tasks.metrics.samples import SampleScores

WORDS, WORDS_A_RESPONSE = 200, 15
ZIPF = 1 / np.arange(1, WORDS + 1)
PRECISIONS = (0.6, 0.4, 0.25, 0.15)

TRUE_METRICS = {
    # Answers of 10 to 29 tokens, with 2 nats a token on average.
    "perplexity": math.exp(2),
    # What sums over ever more samples tend to.
    "bleu_score": bleu([15, 18, *(p * (15 - n) for n, p in enumerate(PRECISIONS)), 15, 14, 13, 12]),
    "rouge_score": 2 / 7,
    # A response ends after a token with probability 0.05, and at the latest after 64.
    "avg_response_length": (1 - 0.95**64) / 0.05,
}

FIELDS: dict[MetricName, tuple[str, ...]] = {
    "perplexity": ("nats", "predicted_tokens"),
    "bleu_score": ("bleu_statistics",),
    "rouge_score": ("rouge_l",),
    "response_diversity": ("bigrams",),
    "avg_response_length": ("generated_tokens",),
}


def draw_samples(rng: np.random.Generator, count: int, nats_a_token: float = 2.0) -> list[SampleScores]:
    """Independent samples with the ids 0, 1, …"""
    return [_draw(rng, str(number), nats_a_token) for number in range(count)]


def draw_bigrams(rng: np.random.Generator) -> tuple[str, ...]:
    words = rng.choice(WORDS, size=1 + rng.poisson(WORDS_A_RESPONSE), p=ZIPF / ZIPF.sum()).tolist()
    return tuple(f"{one} {other}" for one, other in pairwise(words))


def only(samples: Sequence[SampleScores], *metrics: MetricName) -> list[SampleScores]:
    """The samples as if of an evaluation that computed no other metrics than these."""
    others = {field: None for name, fields in FIELDS.items() if name not in metrics for field in fields}
    return [replace(sample, **others) for sample in samples]


def _draw(rng: np.random.Generator, name: str, nats_a_token: float) -> SampleScores:
    tokens = int(rng.integers(10, 30))
    length = int(rng.integers(10, 21))
    totals = [length - n for n in range(4)]
    matches = [int(rng.binomial(total, p)) for total, p in zip(totals, PRECISIONS, strict=True)]
    return SampleScores(
        id=name,
        nats=float(rng.gamma(tokens / 4, 4 * nats_a_token)),
        predicted_tokens=tokens,
        bleu_statistics=(length, int(rng.integers(13, 24)), *matches, *totals),
        rouge_l=float(rng.beta(2, 5)),
        generated_tokens=min(int(rng.geometric(0.05)), 64),
        bigrams=draw_bigrams(rng),
    )
