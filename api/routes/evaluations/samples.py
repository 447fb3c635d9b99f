"""Shows an evaluation's samples, the best or worst by a metric first."""

from collections.abc import Iterator, Sequence
from heapq import nsmallest
from itertools import islice
from typing import Literal

from api.errors import Conflict
from api.platform import Platform
from api.routes.evaluations.schemas import SampleList, SampleShown
from api.routes.evaluations.service import read_evaluation
from configs.recipe import METRICS, MetricName
from registry.repositories.evaluations import metrics_of
from registry.tables import Evaluation
from tasks.metrics.comparison import BETTER_DIRECTION
from tasks.metrics.sample_file import EvaluatedSample, read_samples, sample_file

Order = Literal["worst", "best", "first"]
BY_DEFAULT: Sequence[MetricName] = (
    "rouge_score",
    "bleu_score",
    "perplexity",
    "response_diversity",
    "avg_response_length",
)
"""Samples are ordered by the first of these that the evaluation has; those with a better direction come first."""


def list_samples(platform: Platform, evaluation_id: int, order: Order, by: MetricName | None, limit: int) -> SampleList:
    """Return `limit` samples in this order; those of which the metric has no value come last.

    Diversity and length have no better direction: their worst are the lowest. Raises `NotFound`, and `Conflict` for an
    evaluation without samples, or without the metric to order them by.
    """
    evaluation = read_evaluation(platform.database, evaluation_id)
    shown = map(_shown, stored_samples(platform, evaluation))
    if order == "first":
        return SampleList(evaluation_id=evaluation_id, samples=list(islice(shown, limit)))
    metric = _metric_to_order_by(evaluation, by)
    direction = BETTER_DIRECTION.get(metric, 1) * (1 if order == "worst" else -1)

    def rank(sample: SampleShown) -> tuple[bool, float]:
        value = sample.scores[metric]
        return value is None, direction * (value or 0)

    # Not sorted: it holds no more samples in memory than it returns.
    return SampleList(evaluation_id=evaluation_id, samples=nsmallest(limit, shown, key=rank))


def stored_samples(platform: Platform, evaluation: Evaluation) -> Iterator[EvaluatedSample]:
    """Return an iterator over a completed evaluation's samples, or raise `Conflict` where there are none."""
    if evaluation.status != "COMPLETED":
        message = f"Evaluation {evaluation.id} is {evaluation.status}; its samples come when it is COMPLETED."
        raise Conflict(message)
    path = sample_file(platform.settings.evaluations_dir, evaluation.uid)
    if not path.exists():
        message = f"Evaluation {evaluation.id} has no stored samples (older versions kept none); evaluate again."
        raise Conflict(message)
    return read_samples(path)


def _metric_to_order_by(evaluation: Evaluation, by: MetricName | None) -> MetricName:
    computed = metrics_of(evaluation)
    if by is None:
        return next(name for name in BY_DEFAULT if name in computed)
    if by not in computed:
        names = ", ".join(computed)
        raise Conflict(
            f"Evaluation {evaluation.id} has no {by} to order its samples by; it was asked for {names} alone."
        )
    return by


def _shown(sample: EvaluatedSample) -> SampleShown:
    own = sample.scores.metrics()
    return SampleShown(
        prompt=sample.prompt,
        response=sample.response,
        reference=sample.reference,
        scores={name: own.get(name) for name in METRICS},
    )
