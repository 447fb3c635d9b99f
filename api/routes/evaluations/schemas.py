"""Shapes of evaluations."""

from typing import Literal

from api.schemas import ResponseBody, Timestamp
from configs.recipe import EvaluationSettings

Status = Literal["PENDING", "RUNNING", "PAUSED", "COMPLETED", "FAILED", "CANCELLED"]


class EvaluateRequest(EvaluationSettings):
    """How to evaluate; everything has a default."""


class Metrics(ResponseBody):
    """The five metrics; null until they have been computed."""

    perplexity: float | None
    bleu_score: float | None
    rouge_score: float | None
    response_diversity: float | None
    avg_response_length: float | None


class EvaluationSummary(Metrics):
    """An evaluation as the list shows it."""

    id: int
    model_id: int
    eval_name: str
    created_at: Timestamp
    completed_at: Timestamp | None
    status: Status
    error: str | None
    flow_run_id: str | None
    mlflow_run_id: str | None


class EvaluationList(ResponseBody):
    """All evaluations, in id order."""

    evaluations: list[EvaluationSummary]


class EvaluateResponse(ResponseBody):
    """Answer to an evaluation."""

    id: int
    model_id: int
    eval_name: str
    metrics: Metrics
    message: str
    status: Status
