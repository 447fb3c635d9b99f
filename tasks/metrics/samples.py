"""What is known of each evaluated sample, and the corpus metrics of any set of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.recipe import METRICS, MetricName
from tasks.metrics.errors import MetricError
from tasks.metrics.formulas import bleu, distinct_2, mean, perplexity

DIVERSITY: MetricName = "response_diversity"


@dataclass(frozen=True, slots=True)
class SampleScores:
    """One row's part in each corpus metric that was computed; the parts of the others are None.

    `id` is the row's content hash. `nats` is the negative log-likelihood of its `predicted_tokens`; there are both or
    neither. `bleu_statistics` are what `formulas.bleu` takes. `rouge_l` is the F1, in 0-1. `bigrams` are those of the
    response, as often as they occur. All of it is plain data: `dataclasses.asdict` makes JSON of it.
    """

    id: str
    nats: float | None = None
    predicted_tokens: int | None = None
    bleu_statistics: tuple[int, ...] | None = None
    rouge_l: float | None = None
    generated_tokens: int | None = None
    bigrams: tuple[str, ...] | None = None

    def metrics(self) -> dict[MetricName, float | None]:
        """Return this sample's own value of each metric that was computed, under the corpus metric's name.

        BLEU is sacrebleu's sentence BLEU, and diversity is distinct-2 within the response: neither is averaged in the
        corpus value. Perplexity is None where nothing was predicted, or where no float can hold it.
        """
        own: dict[MetricName, float | None] = {}
        if self.nats is not None and self.predicted_tokens is not None:
            own["perplexity"] = _perplexity_or_none(self.nats, self.predicted_tokens)
        if self.bleu_statistics is not None:
            own["bleu_score"] = bleu(self.bleu_statistics, sentence=True)
        if self.rouge_l is not None:
            own["rouge_score"] = self.rouge_l
        if self.bigrams is not None:
            own[DIVERSITY] = distinct_2([self.bigrams])
        if self.generated_tokens is not None:
            own["avg_response_length"] = float(self.generated_tokens)
        return own


def _perplexity_or_none(nats: float, tokens: int) -> float | None:
    try:
        return perplexity(nats, tokens)
    except MetricError:
        return None


@dataclass(frozen=True, slots=True)
class AdditiveMetric:
    """A corpus metric that is a function of sums over samples, so that no resample has to look at a text again.

    `statistics` are a sample's part in the sums, or have a None where that was not computed.
    """

    statistics: Callable[[SampleScores], Sequence[float | None]]
    formula: Callable[[Sequence[float]], float]

    def values(self, sums: NDArray[np.float64]) -> list[float]:
        """Return the metric of each row of `sums` (sets of samples, statistics); nan where it has no value."""
        return [self._value_or_nan(row) for row in sums.tolist()]

    def _value_or_nan(self, sums: Sequence[float]) -> float:
        try:
            return self.formula(sums)
        except MetricError:
            return math.nan


ADDITIVE: Mapping[MetricName, AdditiveMetric] = {
    "perplexity": AdditiveMetric(lambda sample: (sample.nats, sample.predicted_tokens), lambda sums: perplexity(*sums)),
    "bleu_score": AdditiveMetric(lambda sample: sample.bleu_statistics or (None,), bleu),
    "rouge_score": AdditiveMetric(lambda sample: (sample.rouge_l, 1), lambda sums: mean(*sums)),
    "avg_response_length": AdditiveMetric(lambda sample: (sample.generated_tokens, 1), lambda sums: mean(*sums)),
}


def statistics_tables(samples: Sequence[SampleScores]) -> dict[MetricName, NDArray[np.float64]]:
    """Return, for each additive metric that all of these samples have, an array (samples, statistics)."""
    tables = {}
    for name, metric in ADDITIVE.items():
        rows = [metric.statistics(sample) for sample in samples]
        if not any(None in row for row in rows):
            tables[name] = np.array(rows, dtype=np.float64)
    return tables


def bigrams_of(samples: Sequence[SampleScores]) -> list[tuple[str, ...]] | None:
    """Return the bigrams of each sample, or None unless all of them have theirs."""
    bigrams = [sample.bigrams for sample in samples if sample.bigrams is not None]
    return bigrams if len(bigrams) == len(samples) else None


def corpus_metrics(samples: Sequence[SampleScores]) -> dict[MetricName, float]:
    """Return each metric that all of these samples have, of the samples together.

    Raises MetricError if there are no samples, or if a metric has no finite value, as a perplexity may have none.
    """
    if not samples:
        raise MetricError("there are no rows to measure; evaluate on at least one held-out row")
    values = {
        name: ADDITIVE[name].formula([math.fsum(column) for column in table.T])
        for name, table in statistics_tables(samples).items()
    }
    bigrams = bigrams_of(samples)
    if bigrams is not None:
        values[DIVERSITY] = distinct_2(bigrams)
    odd = next((name for name, value in values.items() if not math.isfinite(value)), None)
    if odd is not None:
        raise MetricError(f"{odd} is {values[odd]}, which is no finite number, so the evaluation says nothing")
    return {name: values[name] for name in METRICS if name in values}
