"""Shapes of evaluations."""

from typing import Annotated, Literal

from pydantic import AliasPath, Field

from api.schemas import CREATED_BY, NextAfter, ResponseBody, Timestamp
from configs.recipe import EvaluationSettings, MetricName

Status = Literal["PENDING", "RUNNING", "PAUSED", "COMPLETED", "FAILED", "CANCELLED"]


class EvaluateRequest(EvaluationSettings):
    """How to evaluate; everything has a default."""


ConfidenceInterval = Annotated[tuple[float, float] | None, Field(description="95% confidence interval: low, high")]


class Metrics(ResponseBody):
    """The five metrics, each with its interval; null until they have been computed, and for good if not asked for.

    A metric has no interval where there is only one sample, or in evaluations older than intervals.
    """

    perplexity: float | None
    bleu_score: float | None
    rouge_score: float | None
    response_diversity: float | None
    avg_response_length: float | None
    perplexity_ci95: ConfidenceInterval = Field(None, validation_alias=AliasPath("intervals", "perplexity"))
    bleu_score_ci95: ConfidenceInterval = Field(None, validation_alias=AliasPath("intervals", "bleu_score"))
    rouge_score_ci95: ConfidenceInterval = Field(None, validation_alias=AliasPath("intervals", "rouge_score"))
    response_diversity_ci95: ConfidenceInterval = Field(
        None, validation_alias=AliasPath("intervals", "response_diversity")
    )
    avg_response_length_ci95: ConfidenceInterval = Field(
        None, validation_alias=AliasPath("intervals", "avg_response_length")
    )


class Conditions(ResponseBody):
    """What the numbers were measured under; null until they are there, and in evaluations older than these fields."""

    max_seq_length: int | None = Field(
        None, validation_alias=AliasPath("conditions", "max_seq_length"), description="Tokens that a row was cut at"
    )
    max_new_tokens: int | None = Field(
        None,
        validation_alias=AliasPath("conditions", "max_new_tokens"),
        description="Tokens that a response had at most; null where nothing was generated",
    )
    rows: int | None = Field(None, validation_alias=AliasPath("conditions", "rows"), description="Rows measured")
    left_out_rows: int | None = Field(
        None,
        validation_alias=AliasPath("conditions", "left_out_rows"),
        description="Rows that were not measured, as their prompt did not fit",
    )
    stopped_responses: int | None = Field(
        None,
        validation_alias=AliasPath("conditions", "stopped_responses"),
        description="Responses that ended at `max_new_tokens` while their references go on",
    )
    tokenizer: str | None = Field(
        None,
        validation_alias=AliasPath("conditions", "tokenizer"),
        description="How BLEU, ROUGE-L and diversity split texts; null where nothing was generated",
    )
    notes: list[str] | None = Field(
        None,
        validation_alias=AliasPath("conditions", "notes"),
        description="What to know before believing the numbers",
    )


class EvaluationSummary(Metrics, Conditions):
    """An evaluation as the list shows it."""

    id: int
    model_id: int
    eval_name: str
    created_at: Timestamp
    created_by: str | None = Field(description=CREATED_BY)
    completed_at: Timestamp | None
    status: Status
    progress: float | None = Field(
        description="Percent of the responses that have been generated; where perplexity alone was asked for, of the "
        "rows that have been measured; null until it runs"
    )
    error: str | None
    flow_run_id: str | None
    mlflow_run_id: str | None


class EvaluationList(ResponseBody):
    """Evaluations, in id order."""

    evaluations: list[EvaluationSummary]
    next_after: NextAfter


class EvaluateResponse(ResponseBody):
    """Answer to an evaluation; `conditions` are null until its numbers are there."""

    id: int
    model_id: int
    eval_name: str
    metrics: Metrics
    conditions: Conditions
    message: str
    status: Status


class SampleShown(ResponseBody):
    """One held-out row: what the model answered, and what that scored."""

    prompt: str
    response: str | None = Field(description="Null where perplexity alone was asked for: nothing was generated")
    reference: str
    scores: dict[MetricName, float | None] = Field(
        description="This sample's own value of each metric; null if it has none, or was not asked for"
    )


class SampleList(ResponseBody):
    """Samples of an evaluation, in the order that was asked for."""

    evaluation_id: int
    samples: list[SampleShown]


class MetricDifference(ResponseBody):
    """How a metric of the second evaluation differs from that of the first."""

    values: tuple[float, float] = Field(description="Over the common rows, in the order of `ids`")
    difference: float = Field(description="The second less the first")
    ci95: ConfidenceInterval = Field(description="95% confidence interval of the difference: low, high")
    p_value: float | None = Field(description="Two-sided, by approximate randomization")
    better: int | None = Field(
        description="Id of the better evaluation; null if the difference may be chance, or neither direction is better"
    )


class Comparison(ResponseBody):
    """Two evaluations, compared over the rows that both have."""

    ids: tuple[int, int]
    rows: int = Field(description="Common rows")
    metrics: dict[MetricName, MetricDifference]
    notes: list[str] = Field(description="What to know before believing the numbers")
