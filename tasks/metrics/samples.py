"""What is known of each evaluated sample, and the corpus metrics of any set of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.metrics.errors import MetricError
from tasks.metrics.formulas import bleu, distinct_2, mean, perplexity

DIVERSITY = "response_diversity"


@dataclass(frozen=True, slots=True)
class SampleScores:
    """One row's part in every corpus metric.

    `id` is the row's content hash. `nats` is the negative log-likelihood of its `predicted_tokens`. `bleu_statistics`
    are what `formulas.bleu` takes. `rouge_l` is the F1, in 0-1. `bigrams` are those of the response, as often as they
    occur. All of it is plain data: `dataclasses.asdict` makes JSON of it.
    """

    id: str
    nats: float
    predicted_tokens: int
    bleu_statistics: tuple[int, ...]
    rouge_l: float
    generated_tokens: int
    bigrams: tuple[str, ...]

    def metrics(self) -> dict[str, float | None]:
        """Return this sample's own value of each of the five metrics, under the corpus metric's name.

        BLEU is sacrebleu's sentence BLEU, and diversity is distinct-2 within the response: neither is averaged in the
        corpus value. Perplexity is None where nothing was predicted, or where no float can hold it.
        """
        try:
            own_perplexity: float | None = perplexity(self.nats, self.predicted_tokens)
        except MetricError:
            own_perplexity = None
        return {
            "perplexity": own_perplexity,
            "bleu_score": bleu(self.bleu_statistics, sentence=True),
            "rouge_score": self.rouge_l,
            DIVERSITY: distinct_2([self.bigrams]),
            "avg_response_length": float(self.generated_tokens),
        }


@dataclass(frozen=True, slots=True)
class AdditiveMetric:
    """A corpus metric that is a function of sums over samples, so that no resample has to look at a text again."""

    statistics: Callable[[SampleScores], Sequence[float]]
    formula: Callable[[Sequence[float]], float]

    def table(self, samples: Sequence[SampleScores]) -> NDArray[np.float64]:
        """Return the statistics of each sample, as an array (samples, statistics)."""
        return np.array([self.statistics(sample) for sample in samples], dtype=np.float64)

    def values(self, sums: NDArray[np.float64]) -> list[float]:
        """Return the metric of each row of `sums` (sets of samples, statistics); nan where it has no value."""
        return [self._value_or_nan(row) for row in sums.tolist()]

    def _value_or_nan(self, sums: Sequence[float]) -> float:
        try:
            return self.formula(sums)
        except MetricError:
            return math.nan


ADDITIVE: Mapping[str, AdditiveMetric] = {
    "perplexity": AdditiveMetric(lambda sample: (sample.nats, sample.predicted_tokens), lambda sums: perplexity(*sums)),
    "bleu_score": AdditiveMetric(lambda sample: sample.bleu_statistics, bleu),
    "rouge_score": AdditiveMetric(lambda sample: (sample.rouge_l, 1), lambda sums: mean(*sums)),
    "avg_response_length": AdditiveMetric(lambda sample: (sample.generated_tokens, 1), lambda sums: mean(*sums)),
}


def corpus_metrics(samples: Sequence[SampleScores]) -> dict[str, float]:
    """Return the five metrics of these samples together.

    Raises MetricError if there are no samples, or if their perplexity has no value.
    """
    if not samples:
        raise MetricError("there are no responses to measure; evaluate on at least one held-out row")
    values = {
        name: metric.formula([math.fsum(column) for column in metric.table(samples).T])
        for name, metric in ADDITIVE.items()
    }
    return values | {DIVERSITY: distinct_2(sample.bigrams for sample in samples)}
