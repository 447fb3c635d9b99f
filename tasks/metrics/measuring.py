"""Measures a loaded model on held-out rows: its likelihoods, its responses, and the metrics of both."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from configs.recipe import METRICS, EvaluationSettings, MetricName
from tasks.data.prepared import PreparedDataset
from tasks.metrics.bootstrap import Interval, confidence_intervals
from tasks.metrics.conditions import Conditions, response_limit
from tasks.metrics.errors import MetricError
from tasks.metrics.perplexity import negative_log_likelihood
from tasks.metrics.responses import generate_responses, prompt_fits
from tasks.metrics.sample_file import EvaluatedSample
from tasks.metrics.samples import SampleScores, corpus_metrics
from tasks.metrics.scoring import TEXT_METRICS, Responses, score_samples
from tasks.metrics.words import TOKENIZER
from tasks.models.sources import ModelSource, NamedDataset

PLAIN_TEXT: dict[str, Any] = {"add_special_tokens": False, "verbose": False}
"""How a text is tokenized to be counted: longer than the context, it is no reason to warn."""


@dataclass(frozen=True)
class Samples:
    """What was asked and expected, and what was answered, if anything was generated."""

    prompts: list[str]
    references: list[str]
    responses: Responses | None

    def table(self) -> dict[str, list[Any]]:
        """Return the columns that MLflow's UI shows; without responses there is no column for them."""
        answered: dict[str, list[Any]] = {} if self.responses is None else {"response": self.responses.texts}
        return {"prompt": self.prompts, **answered, "reference": self.references}


@dataclass(frozen=True)
class Measured:
    """An evaluation's numbers with their 95% intervals, and the samples behind them."""

    metrics: dict[MetricName, float]
    intervals: dict[MetricName, Interval | None]
    samples: Samples
    scores: list[SampleScores]
    conditions: Conditions

    def tracked(self) -> dict[str, float]:
        """Return what MLflow gets: the metrics, and both ends of each interval that there is."""
        tracked: dict[str, float] = {}
        for name, value in self.metrics.items():
            tracked[name] = value
            interval = self.intervals[name]
            if interval is not None:
                tracked |= {f"{name}_ci95_low": interval.low, f"{name}_ci95_high": interval.high}
        return tracked

    def table(self) -> dict[str, list[Any]]:
        """Return the columns that MLflow's UI shows: the texts, and each sample's own value of every metric."""
        rows = [scores.metrics() for scores in self.scores]
        return {**self.samples.table(), **{name: [row[name] for row in rows] for name in self.metrics}}

    def evaluated_samples(self) -> Iterator[EvaluatedSample]:
        """Yield what the samples' file gets."""
        responses = self.samples.responses
        for row, scores in enumerate(self.scores):
            response = None if responses is None else responses.texts[row]
            yield EvaluatedSample(self.samples.prompts[row], response, self.samples.references[row], scores)


@dataclass(frozen=True, slots=True)
class ChosenRows:
    """Which held-out rows are measured: the first `rows` of a data set that is prepared at `max_seq_length` tokens."""

    rows: int
    max_seq_length: int
    left_out: int = 0
    """Rows before the last of them that have no answer token within `max_seq_length`: their prompt does not fit."""

    @classmethod
    def first(cls, whole: PreparedDataset, cut: PreparedDataset, max_samples: int, max_seq_length: int) -> "ChosenRows":
        """Choose what is left of the first `max_samples` held-out rows at `max_seq_length`.

        `whole` is the same data set at the model's whole context: a shorter length leaves rows out and takes no others.
        """
        wanted = whole.held_out.positions[:max_samples]
        # Both are in the same order, so those that are left come first.
        rows = int(np.isin(wanted, cut.held_out.positions[:max_samples]).sum())
        return cls(rows, max_seq_length, left_out=len(wanted) - rows)


def measure_rows(
    model: PreTrainedModel,
    source: ModelSource,
    dataset: NamedDataset,
    chosen: ChosenRows,
    settings: EvaluationSettings,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Measured:
    """Return the metrics that `settings` ask for, over the first held-out rows.

    What none of them needs is not done: without a text metric nothing is generated, without perplexity no likelihood is
    measured. Where responses are generated, rows whose prompt leaves no room for one are left out of every metric.
    `on_progress` is called with how many rows have their response so far, or their likelihood if there are no
    responses. Raises `MetricError` where a metric has no value, or if no row is left.
    """
    metrics = settings.metrics or METRICS
    places, limit = list(range(chosen.rows)), None
    if any(name in TEXT_METRICS for name in metrics):
        limit = settings.max_new_tokens or response_limit(
            reference_lengths(source, dataset, places), chosen.max_seq_length, source.context_length
        )
        places = places_that_fit(source, dataset, places, limit)
    left_out = chosen.left_out + chosen.rows - len(places)
    if not places:
        raise MetricError(
            f"none of the {left_out} rows has a prompt that fits into max_seq_length={chosen.max_seq_length}"
            + (f" and leaves room for {limit} new tokens" if limit is not None else "")
        )
    likelihoods, stopped = None, None
    if "perplexity" in metrics:
        on_measured = on_progress if limit is None else _ignore
        rows = [dataset.prepared.held_out[place] for place in places]
        likelihoods = negative_log_likelihood(model, rows, source.pad_token_id, on_measured=on_measured)
    if limit is not None:
        samples = generate_samples(model, source, dataset, places, limit, on_progress)
        stopped = _stopped_responses(samples, reference_lengths(source, dataset, places), limit)
    else:
        samples = _samples(dataset, places, responses=None)
    ids = [dataset.prepared.held_out_examples[place].content_hash for place in places]
    scores = score_samples(ids, samples.references, samples.responses, likelihoods, metrics)
    tokenizer = TOKENIZER if limit is not None else None
    conditions = Conditions(chosen.max_seq_length, limit, len(places), left_out, stopped, tokenizer)
    return Measured(corpus_metrics(scores), confidence_intervals(scores, settings.seed), samples, scores, conditions)


def reference_lengths(source: ModelSource, dataset: NamedDataset, places: Sequence[int]) -> list[int]:
    """Return how many of the model's tokens each reference answer has, uncut and without a token that ends it."""
    return [
        len(source.tokenizer(dataset.prepared.held_out_examples[place].answer, **PLAIN_TEXT)["input_ids"])
        for place in places
    ]


def places_that_fit(
    source: ModelSource, dataset: NamedDataset, places: Sequence[int], max_new_tokens: int
) -> list[int]:
    """Return the places of those held-out rows whose whole prompt leaves room for a response."""
    held_out = dataset.prepared.held_out
    return [
        place for place in places if prompt_fits(held_out[place].prompt_length, max_new_tokens, source.context_length)
    ]


def generate_samples(
    model: PreTrainedModel,
    source: ModelSource,
    dataset: NamedDataset,
    places: Sequence[int],
    max_new_tokens: int,
    on_generated: Callable[[int], None] = lambda _: None,
) -> Samples:
    """Return greedy responses to the prompts of held-out rows; `on_generated` gets their number so far.

    Raises MetricError for a prompt that leaves no room (`places_that_fit`).
    """
    rows = [dataset.prepared.held_out[place] for place in places]
    model.eval()
    responses = generate_responses(
        model,
        [row.input_ids[: row.prompt_length] for row in rows],
        max_new_tokens,
        pad_token_id=source.pad_token_id,
        end_token_ids=source.end_token_ids,
        context_length=source.context_length,
        on_generated=on_generated,
    )
    texts = [source.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in responses]
    return _samples(dataset, places, Responses(texts, [len(tokens) for tokens in responses]))


def _samples(dataset: NamedDataset, places: Sequence[int], responses: Responses | None) -> Samples:
    examples = [dataset.prepared.held_out_examples[place] for place in places]
    return Samples([example.prompt for example in examples], [example.answer for example in examples], responses)


def _stopped_responses(samples: Samples, references: Sequence[int], limit: int) -> int:
    """Return how many responses are as long as they may be, while their reference (tokens) is longer."""
    assert samples.responses is not None
    return sum(
        response == limit < reference for response, reference in zip(samples.responses.lengths, references, strict=True)
    )


def _ignore(_: int) -> None:
    """Ignore progress."""
