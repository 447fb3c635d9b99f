"""Measures a loaded model on held-out rows: its likelihoods, its responses, and the metrics of both."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from configs.recipe import METRICS, EvaluationSettings, MetricName
from tasks.metrics.bootstrap import Interval, confidence_intervals
from tasks.metrics.perplexity import negative_log_likelihood
from tasks.metrics.responses import generate_responses
from tasks.metrics.sample_file import EvaluatedSample
from tasks.metrics.samples import SampleScores, corpus_metrics
from tasks.metrics.scoring import TEXT_METRICS, Responses, score_samples
from tasks.models.sources import ModelSource, NamedDataset


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


def measure_rows(
    model: PreTrainedModel,
    source: ModelSource,
    dataset: NamedDataset,
    rows: int,
    settings: EvaluationSettings,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Measured:
    """Return the metrics that `settings` ask for, over the first held-out rows.

    What none of them needs is not done: without a text metric nothing is generated, without perplexity no likelihood is
    measured. `on_progress` is called with how many rows have their response so far, or their likelihood if there are no
    responses. Raises `MetricError` where a metric has no value.
    """
    metrics = settings.metrics or METRICS
    data = dataset.prepared
    generating = any(name in TEXT_METRICS for name in metrics)
    likelihoods = None
    if "perplexity" in metrics:
        on_measured = _ignore if generating else on_progress
        likelihoods = negative_log_likelihood(model, data.held_out[:rows], source.pad_token_id, on_measured=on_measured)
    if generating:
        samples = generate_samples(model, source, dataset, rows, settings.max_new_tokens, on_progress)
    else:
        samples = _samples(dataset, rows, responses=None)
    ids = [example.content_hash for example in data.held_out_examples[:rows]]
    scores = score_samples(ids, samples.references, samples.responses, likelihoods, metrics)
    return Measured(corpus_metrics(scores), confidence_intervals(scores, settings.seed), samples, scores)


def generate_samples(
    model: PreTrainedModel,
    source: ModelSource,
    dataset: NamedDataset,
    rows: int,
    max_new_tokens: int,
    on_generated: Callable[[int], None] = lambda _: None,
) -> Samples:
    """Return greedy responses to the first held-out rows' prompts; `on_generated` gets their number so far."""
    prompts = [row.input_ids[: row.prompt_length] for row in dataset.prepared.held_out[:rows]]
    model.eval()
    responses = generate_responses(
        model,
        prompts,
        max_new_tokens,
        pad_token_id=source.pad_token_id,
        end_token_ids=source.end_token_ids,
        context_length=source.context_length,
        on_generated=on_generated,
    )
    texts = [source.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in responses]
    return _samples(dataset, rows, Responses(texts, [len(tokens) for tokens in responses]))


def _samples(dataset: NamedDataset, rows: int, responses: Responses | None) -> Samples:
    examples = dataset.prepared.held_out_examples[:rows]
    return Samples([example.prompt for example in examples], [example.answer for example in examples], responses)


def _ignore(_: int) -> None:
    """Ignore progress."""
