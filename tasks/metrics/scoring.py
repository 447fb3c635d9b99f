"""Scores each row on its own, by the metrics that the corpus values are made of."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from configs.recipe import METRICS, MetricName
from tasks.metrics.bleu import Bleu
from tasks.metrics.diversity import ResponseDiversity
from tasks.metrics.errors import MetricError
from tasks.metrics.perplexity import NegativeLogLikelihood
from tasks.metrics.rouge import Rouge
from tasks.metrics.samples import SampleScores

TEXT_METRICS = tuple(name for name in METRICS if name != "perplexity")
"""Metrics of what a model generates."""


@dataclass(frozen=True, slots=True)
class Responses:
    """What a model generated: a text for each row, and how many tokens it has."""

    texts: list[str]
    lengths: list[int]


def score_samples(
    ids: Sequence[str],
    references: Sequence[str],
    responses: Responses | None,
    likelihoods: Sequence[NegativeLogLikelihood] | None,
    metrics: Collection[MetricName] = METRICS,
) -> list[SampleScores]:
    """Return each row's part in these metrics, in the rows' order.

    The sequences go row by row: content hash, reference text, what was generated, and the likelihood of the row's
    labelled tokens. Perplexity needs `likelihoods`, all the others need `responses`.

    Raises MetricError if there are no rows, if the sequences differ in length, or if a metric lacks what it needs.
    """
    if not ids:
        raise MetricError("there are no rows to measure; evaluate on at least one held-out row")
    _require_as_many_of_each(ids, references, responses, likelihoods)
    parts: dict[str, Sequence[Any]] = {}
    if "perplexity" in metrics:
        if likelihoods is None:
            raise MetricError("perplexity was asked for, but no likelihood was measured")
        parts["nats"] = [row.nats for row in likelihoods]
        parts["predicted_tokens"] = [row.tokens for row in likelihoods]
    of_texts = [name for name in TEXT_METRICS if name in metrics]
    if of_texts:
        if responses is None:
            raise MetricError(f"{of_texts[0]} was asked for, but no response was generated")
        parts |= _parts_of_texts(responses, references, of_texts)
    return [SampleScores(ids[row], **{name: part[row] for name, part in parts.items()}) for row in range(len(ids))]


def _require_as_many_of_each(
    ids: Sequence[str],
    references: Sequence[str],
    responses: Responses | None,
    likelihoods: Sequence[NegativeLogLikelihood] | None,
) -> None:
    counts = {"ids": len(ids), "references": len(references)}
    if responses is not None:
        counts |= {"responses": len(responses.texts), "lengths": len(responses.lengths)}
    if likelihoods is not None:
        counts["likelihoods"] = len(likelihoods)
    if len(set(counts.values())) > 1:
        given = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise MetricError(f"there must be as many of each, but there are {given}")


def _parts_of_texts(
    responses: Responses, references: Sequence[str], metrics: Collection[MetricName]
) -> dict[str, Sequence[Any]]:
    """Return columns of `SampleScores`, computing only what these metrics need."""
    predictions = {"predictions": responses.texts}
    pairs = predictions | {"references": list(references)}
    parts: dict[str, Sequence[Any]] = {}
    if "bleu_score" in metrics:
        parts["bleu_statistics"] = [tuple(row) for row in Bleu().compute(**pairs)["statistics"]]
    if "rouge_score" in metrics:
        parts["rouge_l"] = Rouge().compute(**pairs)["sample_scores"]
    if "response_diversity" in metrics:
        parts["bigrams"] = [tuple(row) for row in ResponseDiversity().compute(**predictions)["bigrams"]]
    if "avg_response_length" in metrics:
        parts["generated_tokens"] = responses.lengths
    return parts
