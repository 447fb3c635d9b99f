"""Compares two evaluations over the same rows, metric by metric.

The interval of a difference is that of `tasks.metrics.bootstrap`, paired: both sides are drawn on the same rows (Koehn
2004; the jackknife for distinct-2), so what makes a row easy or hard for both cancels. The p-value is of approximate
randomization (Noreen 1989, "Computer-Intensive Methods for Testing Hypotheses"; Riezler & Maxwell 2005, "On Some
Pitfalls in Automatic Evaluation and Significance Testing for MT"): how often a difference at least as large comes about
when, row by row, a coin decides which sample belongs to which side. It swaps and never duplicates, so it holds for
distinct-2 too.

Five metrics are five chances of a false alarm: a p-value near 0.05 in one of them alone says little.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.metrics.bigram_sets import BigramSets
from tasks.metrics.bootstrap import (
    RESAMPLES,
    Interval,
    blocks,
    jackknife_interval,
    percentile_interval,
    resample_counts,
)
from tasks.metrics.errors import MetricError
from tasks.metrics.samples import ADDITIVE, DIVERSITY, SampleScores, corpus_metrics

SHUFFLES = 2000
SIGNIFICANT = 0.05
BETTER_DIRECTION: Mapping[str, Literal[-1, 1]] = {"perplexity": -1, "bleu_score": 1, "rouge_score": 1}
"""Diversity and length have none: more of either can be better or worse."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How a metric of `b` differs from that of `a`.

    `value` is that of b less that of a, `interval` its 95% interval, `p_value` two-sided. The latter two are None where
    they do not exist: an interval of a single sample, or where a perplexity has no value. `better` is the side that the
    metric favours; None while the interval holds 0 or the p-value is 0.05 or more (as of fewer than six rows, whose
    bootstrap intervals are far too narrow), and for a metric without a better direction.
    """

    value: float
    interval: Interval | None
    p_value: float | None
    better: Literal["a", "b"] | None


def compare(
    a: Sequence[SampleScores],
    b: Sequence[SampleScores],
    seed: int = 0,
    resamples: int = RESAMPLES,
    shuffles: int = SHUFFLES,
) -> dict[str, Difference]:
    """Return the difference of each metric, over rows matched by their id; the same for the same samples and seed.

    Perplexity is absent if some row was predicted in another number of tokens by `b` than by `a`: then the models split
    text differently or saw other text, and a token's likelihood means something else on either side. (Length is in each
    model's own tokens, too.)

    Raises MetricError if the rows are not the same, with the number of common ones, or if there are none.
    """
    a, b = _matched(a, b)
    values = {name: value - corpus_metrics(a)[name] for name, value in corpus_metrics(b).items()}
    if any(one.predicted_tokens != other.predicted_tokens for one, other in zip(a, b, strict=True)):
        del values["perplexity"]
    bootstrap_seed, shuffle_seed = np.random.SeedSequence(seed).spawn(2)
    intervals = _intervals(a, b, values, resamples, np.random.default_rng(bootstrap_seed))
    shuffled = _shuffled_differences(a, b, shuffles, np.random.default_rng(shuffle_seed))
    p_values = {name: _p_value(value, np.array(shuffled[name])) for name, value in values.items()}
    return {
        name: Difference(value, intervals[name], p_values[name], _better(name, intervals[name], p_values[name]))
        for name, value in values.items()
    }


def common_rows(a: Sequence[SampleScores], b: Sequence[SampleScores]) -> tuple[list[SampleScores], list[SampleScores]]:
    """Return the samples of rows that are on both sides, a row that occurs twice on both twice; for `compare`."""
    common = Counter(sample.id for sample in a) & Counter(sample.id for sample in b)
    return _first_of(a, common), _first_of(b, common)


def _first_of(samples: Sequence[SampleScores], wanted: Counter[str]) -> list[SampleScores]:
    left = wanted.copy()
    kept = []
    for sample in samples:
        if left[sample.id] > 0:
            left[sample.id] -= 1
            kept.append(sample)
    return kept


def _matched(
    a: Sequence[SampleScores], b: Sequence[SampleScores]
) -> tuple[Sequence[SampleScores], Sequence[SampleScores]]:
    """Return both in the order of their ids; a row that occurs twice is matched twice."""
    ids_a, ids_b = Counter(sample.id for sample in a), Counter(sample.id for sample in b)
    if ids_a != ids_b:
        raise MetricError(
            f"the evaluations are not over the same rows: {(ids_a & ids_b).total()} are common, of {len(a)} and "
            f"{len(b)}; evaluate both on the same data set with the same max_samples"
        )
    return sorted(a, key=lambda sample: sample.id), sorted(b, key=lambda sample: sample.id)


def _intervals(
    a: Sequence[SampleScores],
    b: Sequence[SampleScores],
    values: Mapping[str, float],
    resamples: int,
    generator: np.random.Generator,
) -> dict[str, Interval | None]:
    """Return the interval of each metric's difference, from resamples that hold the same rows on both sides."""
    resampled: dict[str, list[NDArray[np.float64]]] = {name: [] for name in ADDITIVE}
    tables = {name: (metric.table(a), metric.table(b)) for name, metric in ADDITIVE.items()}
    for counts in resample_counts(len(a), resamples, generator):
        for name, metric in ADDITIVE.items():
            of_a, of_b = (np.array(metric.values(counts @ table)) for table in tables[name])
            resampled[name].append(of_b - of_a)
    intervals = {name: percentile_interval(np.concatenate(parts), len(a)) for name, parts in resampled.items()}
    without_each = [BigramSets([sample.bigrams for sample in side]).without_each() for side in (a, b)]
    diversity = jackknife_interval(values[DIVERSITY], without_each[1] - without_each[0])
    return intervals | {DIVERSITY: diversity and Interval(max(diversity.low, -1.0), min(diversity.high, 1.0))}


def _shuffled_differences(
    a: Sequence[SampleScores], b: Sequence[SampleScores], shuffles: int, generator: np.random.Generator
) -> dict[str, list[float]]:
    """Return each metric's difference after each shuffle, in which every row's two samples swap sides or do not."""
    tables = {name: (metric.table(a), metric.table(b)) for name, metric in ADDITIVE.items()}
    bigrams = BigramSets([sample.bigrams for side in (a, b) for sample in side])
    differences: dict[str, list[float]] = {name: [] for name in (*ADDITIVE, DIVERSITY)}
    for size in blocks(shuffles, len(a) + bigrams.entries):
        swapped = generator.integers(2, size=(size, len(a)), dtype=np.int8).astype(bool)
        for name, metric in ADDITIVE.items():
            table_a, table_b = tables[name]
            moved = swapped @ (table_b - table_a)
            of_a, of_b = metric.values(table_a.sum(axis=0) + moved), metric.values(table_b.sum(axis=0) - moved)
            differences[name] += [y - x for x, y in zip(of_a, of_b, strict=True)]
        of_a_set = bigrams.distinct_2(np.hstack([~swapped, swapped]))
        of_b_set = bigrams.distinct_2(np.hstack([swapped, ~swapped]))
        differences[DIVERSITY] += (of_b_set - of_a_set).tolist()
    return differences


def _p_value(value: float, shuffled: NDArray[np.float64]) -> float | None:
    """Return the share of shuffles that differ at least as much, counting the evaluations themselves as one."""
    if not np.isfinite(shuffled).all():
        return None
    # A shuffle that swaps nothing, or everything, comes to the same difference but for the order of the sums.
    threshold = abs(value) * (1 - 1e-9) - 1e-12
    return float(np.count_nonzero(np.abs(shuffled) >= threshold) + 1) / (len(shuffled) + 1)


def _better(name: str, interval: Interval | None, p_value: float | None) -> Literal["a", "b"] | None:
    direction = BETTER_DIRECTION.get(name)
    if direction is None or interval is None or p_value is None:
        return None
    if interval.low <= 0 <= interval.high or p_value >= SIGNIFICANT:
        return None
    return "b" if interval.low * direction > 0 else "a"
