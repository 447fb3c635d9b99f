"""Compares two evaluations over the rows that both have."""

from collections.abc import Collection

from api.errors import Conflict, Invalid
from api.platform import Platform
from api.routes.evaluations.samples import stored_samples
from api.routes.evaluations.schemas import Comparison, MetricDifference
from api.routes.evaluations.service import read_evaluation
from configs.recipe import LARGEST_ID, MetricName
from registry.repositories.evaluations import measured_length, measured_new_tokens, metrics_of, text_tokenizer
from registry.tables import Evaluation
from tasks.metrics.comparison import common_rows, compare
from tasks.metrics.errors import MetricError
from tasks.metrics.samples import SampleScores, corpus_metrics


def compare_evaluations(platform: Platform, ids: str) -> Comparison:
    """Return how the second evaluation of `ids` (`1,2`) differs from the first; takes seconds of computing.

    Raises `Invalid` unless these are two, `NotFound`, and `Conflict` if they can't be compared.
    """
    a, b = (read_evaluation(platform.database, evaluation_id) for evaluation_id in _two(ids))
    sides = [_scores(platform, a), _scores(platform, b)]
    _require_common_metric(a, b)
    common = common_rows(*sides)
    rows = len(common[0])
    if not rows:
        message = f"Evaluations {a.id} and {b.id} have no rows in common; evaluate both models on the same data set."
        raise Conflict(message)
    try:
        differences = compare(*common)
        values = [corpus_metrics(side) for side in common]
    except MetricError as error:
        message = f"Evaluations {a.id} and {b.id} can't be compared over their {rows} common rows: {error}."
        raise Conflict(message) from error
    if not differences:
        message = (
            f"Evaluations {a.id} and {b.id} have only perplexity in common, and it can't be compared: the two models "
            "split some row into different numbers of tokens."
        )
        raise Conflict(message)
    id_of_side = {"a": a.id, "b": b.id, None: None}
    return Comparison(
        ids=(a.id, b.id),
        rows=rows,
        metrics={
            name: MetricDifference(
                values=(values[0][name], values[1][name]),
                difference=difference.value,
                ci95=difference.interval,
                p_value=difference.p_value,
                better=id_of_side[difference.better],
            )
            for name, difference in differences.items()
        },
        notes=_notes(a, b, [len(side) for side in sides], rows, differences),
    )


def _two(ids: str) -> tuple[int, int]:
    first, _, second = ids.partition(",")
    numbers = int(first), int(second)
    if numbers[0] == numbers[1] or max(numbers) > LARGEST_ID:
        raise Invalid(f"ids is '{ids}', but two different evaluations are compared, such as ids=1,2.")
    return numbers


def _scores(platform: Platform, evaluation: Evaluation) -> list[SampleScores]:
    return [sample.scores for sample in stored_samples(platform, evaluation)]


def _require_common_metric(a: Evaluation, b: Evaluation) -> None:
    if not set(metrics_of(a)) & set(metrics_of(b)):
        has = [f"evaluation {one.id} has {', '.join(metrics_of(one))}" for one in (a, b)]
        raise Conflict(f"The evaluations have no metric in common: {has[0]}; {has[1]}.")


def _notes(a: Evaluation, b: Evaluation, counts: list[int], rows: int, compared: Collection[MetricName]) -> list[str]:
    """Return what a reader of the numbers must know."""
    notes = []
    if counts != [rows, rows]:
        notes.append(
            f"The values are those of the {rows} common rows alone, of {counts[0]} in evaluation {a.id} and of "
            f"{counts[1]} in evaluation {b.id}."
        )
    for one, other in ((a, b), (b, a)):
        alone = [name for name in metrics_of(one) if name not in metrics_of(other)]
        if alone:
            notes.append(f"Left out, as only evaluation {one.id} has it: {', '.join(alone)}.")
    if all("perplexity" in metrics_of(one) for one in (a, b)) and "perplexity" not in compared:
        notes.append("Perplexity is left out: the two models split some row into different numbers of tokens.")
    lengths = [measured_length(evaluation) for evaluation in (a, b)]
    if lengths[0] != lengths[1]:
        notes.append(
            f"Rows were cut at {lengths[0]} tokens in evaluation {a.id} and at {lengths[1]} in evaluation {b.id}: "
            "perplexity is compared only where both saw the same tokens."
        )
    limits = [measured_new_tokens(evaluation) for evaluation in (a, b)]
    if limits[0] != limits[1] and set(compared) - {"perplexity"}:
        notes.append(
            f"Responses ended after at most {limits[0]} tokens in evaluation {a.id} and {limits[1]} in evaluation "
            f"{b.id}: all but perplexity may differ for that alone."
        )
    if text_tokenizer(a) != text_tokenizer(b) and set(compared) & {"bleu_score", "rouge_score", "response_diversity"}:
        notes.append(
            "Texts were split into words in different ways, as one evaluation is of an older version: of texts beyond "
            "ASCII, BLEU, ROUGE-L and diversity may differ for that alone."
        )
    return notes
