"""The one formula of each corpus metric, from what adds up over samples; light to import."""

import math
from collections.abc import Iterable, Sequence

from sacrebleu.metrics.bleu import BLEU

from tasks.metrics.errors import MetricError

NGRAM_ORDERS = 4


def perplexity(nats: float, tokens: float) -> float:
    """Return exp(nats ÷ tokens), at least 1.

    Raises MetricError if no token was predicted, if the loss is no finite number, or if a float cannot hold the result.
    """
    if tokens == 0:
        raise MetricError("no row has a labelled token, so there is nothing to measure the model on")
    if not math.isfinite(nats):
        raise MetricError(f"the loss is {nats}, which is no finite number: weights are broken or training diverged")
    try:
        return math.exp(nats / tokens)
    except OverflowError as error:
        raise MetricError(
            f"the mean loss is {nats / tokens:.1f} nats a token, whose exponential is beyond any float; "
            "training diverged"
        ) from error


def bleu(statistics: Sequence[float], *, sentence: bool = False) -> float:
    """Return BLEU in 0-1 with exponential smoothing, from statistics of one response or from their sums over many.

    `statistics` are in sacrebleu's order: response length and reference length (tokens), matched n-grams of orders 1 to
    4, n-grams of orders 1 to 4. `sentence` leaves out orders that the response is too short for, as sacrebleu's
    `sentence_bleu` does.
    """
    matches, totals = statistics[2 : 2 + NGRAM_ORDERS], statistics[2 + NGRAM_ORDERS :]
    score = BLEU.compute_bleu(
        correct=list(matches),
        total=list(totals),
        sys_len=int(statistics[0]),
        ref_len=int(statistics[1]),
        smooth_method="exp",
        effective_order=sentence,
        max_ngram_order=NGRAM_ORDERS,
    ).score
    # Equal texts score a few units in the last place above 100.
    return min(float(score) / 100, 1.0)


def distinct_2(bigrams: Iterable[Sequence[str]]) -> float:
    """Return unique bigrams ÷ bigrams over all responses, given each response's bigrams; 0 if there are none."""
    pooled = [bigram for of_one in bigrams for bigram in of_one]
    return len(set(pooled)) / len(pooled) if pooled else 0.0


def mean(total: float, count: float) -> float:
    """Return total ÷ count."""
    return total / count
