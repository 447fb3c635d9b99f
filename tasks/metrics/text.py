"""The four metrics of generated text, under the names that the API documents."""

from collections.abc import Sequence

from tasks.metrics.bleu import Bleu
from tasks.metrics.diversity import ResponseDiversity
from tasks.metrics.hub_free import MetricError
from tasks.metrics.rouge import Rouge


def text_metrics(
    responses: Sequence[str], references: Sequence[str], response_lengths: Sequence[int]
) -> dict[str, float]:
    """Return `bleu_score`, `rouge_score`, `response_diversity` (each in 0-1) and `avg_response_length` (tokens).

    The three sequences go row by row: generated text, reference text, generated tokens. Raises MetricError if they are
    empty or differ in length.
    """
    if not responses:
        raise MetricError("there are no responses to measure; evaluate on at least one held-out row")
    if not len(responses) == len(references) == len(response_lengths):
        raise MetricError(
            f"{len(responses)} responses, {len(references)} references and {len(response_lengths)} lengths were given; "
            "there must be as many of each"
        )
    pairs = {"predictions": list(responses), "references": list(references)}
    scores: dict[str, float] = {
        **Bleu().compute(**pairs),
        **Rouge().compute(**pairs),
        **ResponseDiversity().compute(predictions=pairs["predictions"]),
    }
    return scores | {"avg_response_length": sum(response_lengths) / len(response_lengths)}
