"""How a record of ours and a Prefect flow run name each other: parameters, tag and run name."""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from configs.recipe import EvaluationParameters, FinetuneParameters
from registry.tables import Evaluation, TrainingJob

JOB_TAG, EVALUATION_TAG = "training_job:", "evaluation:"


@dataclass(frozen=True, slots=True)
class Submission:
    """What Prefect is told when a record's run is created."""

    name: str
    parameters: dict[str, Any]
    tag: str
    key: str
    """Makes one run of it, however often it is sent: the record's uid, with the number of any later submission."""


def job_of_parameters(parameters: FinetuneParameters, flow_run_id: str | None = None) -> TrainingJob:
    """Return an unsaved job; with a flow run's id if Prefect has the run already."""
    return TrainingJob(
        uid=uuid4().hex,
        model_id=parameters.model_id,
        job_name=parameters.job_name,
        recipe=parameters.hyperparameters(),
        status="PENDING",
        flow_run_id=flow_run_id,
    )


def evaluation_of_parameters(parameters: EvaluationParameters, flow_run_id: str | None = None) -> Evaluation:
    """Return an unsaved evaluation; with a flow run's id if Prefect has the run already."""
    return Evaluation(
        uid=uuid4().hex,
        model_id=parameters.model_id,
        eval_name=parameters.eval_name,
        parameters=parameters.model_dump(exclude={"model_id", "eval_name"}),
        status="PENDING",
        flow_run_id=flow_run_id,
    )


def submission_of(record: TrainingJob | Evaluation) -> Submission:
    """Return what to tell Prefect about a record."""
    key = f"{record.uid}-{record.submissions}" if record.submissions else record.uid
    if isinstance(record, TrainingJob):
        job = {"model_id": record.model_id, "job_name": record.job_name, **record.recipe}
        return Submission(f"job {record.id}: {record.job_name}", {"job": job}, JOB_TAG + record.uid, key)
    evaluation = {"model_id": record.model_id, "eval_name": record.eval_name, **record.parameters}
    name = f"evaluation {record.id}: {record.eval_name}"
    return Submission(name, {"evaluation": evaluation}, EVALUATION_TAG + record.uid, key)


def uid_of_tags(tags: list[str], prefix: str) -> str | None:
    """Return the uid in a flow run's tags, or None for a run that was started elsewhere."""
    return next((tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)), None)
