"""Compares two evaluations over the same rows, metric by metric.

The interval of a difference is that of `tasks.metrics.bootstrap`, paired: both sides resample the same rows (Koehn
2004; the jackknife for distinct-2), so what makes a row easy or hard for both cancels. The p-value is of approximate
randomization (Noreen 1989, "Computer-Intensive Methods for Testing Hypotheses"; Riezler & Maxwell 2005, "On Some
Pitfalls in Automatic Evaluation and Significance Testing for MT"): how often a difference at least as large comes about
when, row by row, a coin decides which sample belongs to which side. It swaps and never duplicates, so it holds for
distinct-2 too.

Each metric is a chance of a false alarm: of five, a p-value near 0.05 in only one says little.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from configs.recipe import MetricName
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
from tasks.metrics.samples import ADDITIVE, DIVERSITY, SampleScores, bigrams_of, corpus_metrics, statistics_tables

SHUFFLES = 2000
SIGNIFICANT = 0.05
BETTER_DIRECTION: Mapping[MetricName, Literal[-1, 1]] = {"perplexity": -1, "bleu_score": 1, "rouge_score": 1}
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
) -> dict[MetricName, Difference]:
    """Return the difference of each metric that both sides have, over rows matched by their id.

    It is the same for the same samples and seed. Perplexity is absent if some row was predicted in another number of
    tokens by `b` than by `a`: then the models split text differently or saw other text, and a token's likelihood means
    something else on either side. (Length is in each model's own tokens, too.)

    Raises MetricError if the rows are not the same, with the number of common ones, or if there are none.
    """
    a, b = _matched(a, b)
    of_a, of_b = corpus_metrics(a), corpus_metrics(b)
    values = {name: value - of_a[name] for name, value in of_b.items() if name in of_a}
    if any(one.predicted_tokens != other.predicted_tokens for one, other in zip(a, b, strict=True)):
        values.pop("perplexity", None)
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
    values: Mapping[MetricName, float],
    resamples: int,
    generator: np.random.Generator,
) -> dict[MetricName, Interval | None]:
    """Return the interval of each metric's difference, from resamples that hold the same rows on both sides."""
    tables = _paired_tables(a, b)
    resampled: dict[MetricName, list[NDArray[np.float64]]] = {name: [] for name in tables}
    for counts in resample_counts(len(a), resamples, generator):
        for name, pair in tables.items():
            of_a, of_b = (np.array(ADDITIVE[name].values(counts @ table)) for table in pair)
            resampled[name].append(of_b - of_a)
    intervals = {name: percentile_interval(np.concatenate(parts), len(a)) for name, parts in resampled.items()}
    bigrams_a, bigrams_b = bigrams_of(a), bigrams_of(b)
    if bigrams_a is not None and bigrams_b is not None:
        without_each = BigramSets(bigrams_b).without_each() - BigramSets(bigrams_a).without_each()
        diversity = jackknife_interval(values[DIVERSITY], without_each)
        intervals[DIVERSITY] = diversity and Interval(max(diversity.low, -1.0), min(diversity.high, 1.0))
    return intervals


def _paired_tables(
    a: Sequence[SampleScores], b: Sequence[SampleScores]
) -> dict[MetricName, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return the statistics of both sides, for each additive metric that both have."""
    of_a, of_b = statistics_tables(a), statistics_tables(b)
    return {name: (table, of_b[name]) for name, table in of_a.items() if name in of_b}


def _shuffled_differences(
    a: Sequence[SampleScores], b: Sequence[SampleScores], shuffles: int, generator: np.random.Generator
) -> dict[MetricName, list[float]]:
    """Return each metric's difference after each shuffle, in which every row's two samples swap sides or do not."""
    tables = _paired_tables(a, b)
    bigrams = bigrams_of([*a, *b])
    sets = None if bigrams is None else BigramSets(bigrams)
    differences: dict[MetricName, list[float]] = {name: [] for name in (*tables, DIVERSITY)}
    for size in blocks(shuffles, len(a) + (sets.entries if sets is not None else 0)):
        swapped = generator.integers(2, size=(size, len(a)), dtype=np.int8).astype(bool)
        for name, (table_a, table_b) in tables.items():
            values, moved = ADDITIVE[name].values, swapped @ (table_b - table_a)
            of_a, of_b = values(table_a.sum(axis=0) + moved), values(table_b.sum(axis=0) - moved)
            differences[name] += [y - x for x, y in zip(of_a, of_b, strict=True)]
        if sets is not None:
            of_a_set = sets.distinct_2(np.hstack([~swapped, swapped]))
            of_b_set = sets.distinct_2(np.hstack([swapped, ~swapped]))
            differences[DIVERSITY] += (of_b_set - of_a_set).tolist()
    return differences


def _p_value(value: float, shuffled: NDArray[np.float64]) -> float | None:
    """Return the share of shuffles that differ at least as much, counting the evaluations themselves as one."""
    if not np.isfinite(shuffled).all():
        return None
    # A shuffle that swaps nothing, or everything, comes to the same difference but for the order of the sums.
    threshold = abs(value) * (1 - 1e-9) - 1e-12
    return float(np.count_nonzero(np.abs(shuffled) >= threshold) + 1) / (len(shuffled) + 1)


def _better(name: MetricName, interval: Interval | None, p_value: float | None) -> Literal["a", "b"] | None:
    direction = BETTER_DIRECTION.get(name)
    if direction is None or interval is None or p_value is None:
        return None
    if interval.low <= 0 <= interval.high or p_value >= SIGNIFICANT:
        return None
    return "b" if interval.low * direction > 0 else "a"
