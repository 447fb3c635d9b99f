"""Scores each response on its own, by the metrics that the corpus values are made of."""

from collections.abc import Sequence

from tasks.metrics.bleu import Bleu
from tasks.metrics.diversity import ResponseDiversity
from tasks.metrics.errors import MetricError
from tasks.metrics.perplexity import NegativeLogLikelihood
from tasks.metrics.rouge import Rouge
from tasks.metrics.samples import SampleScores


def score_samples(
    ids: Sequence[str],
    responses: Sequence[str],
    references: Sequence[str],
    response_lengths: Sequence[int],
    likelihoods: Sequence[NegativeLogLikelihood],
) -> list[SampleScores]:
    """Return the scores of each row, in the rows' order.

    The sequences go row by row: content hash, generated text, reference text, generated tokens, and the likelihood of
    the row's labelled tokens. Raises MetricError if they are empty or differ in length.
    """
    if not responses:
        raise MetricError("there are no responses to measure; evaluate on at least one held-out row")
    if not len(ids) == len(responses) == len(references) == len(response_lengths) == len(likelihoods):
        raise MetricError(
            f"{len(ids)} ids, {len(responses)} responses, {len(references)} references, {len(response_lengths)} "
            f"lengths and {len(likelihoods)} likelihoods were given; there must be as many of each"
        )
    pairs = {"predictions": list(responses), "references": list(references)}
    statistics = Bleu().compute(**pairs)["statistics"]
    rouge_l = Rouge().compute(**pairs)["sample_scores"]
    bigrams = ResponseDiversity().compute(predictions=pairs["predictions"])["bigrams"]
    return [
        SampleScores(
            id=ids[row],
            nats=likelihoods[row].nats,
            predicted_tokens=likelihoods[row].tokens,
            bleu_statistics=tuple(statistics[row]),
            rouge_l=rouge_l[row],
            generated_tokens=response_lengths[row],
            bigrams=tuple(bigrams[row]),
        )
        for row in range(len(responses))
    ]
