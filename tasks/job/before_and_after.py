"""Shows in MLflow what a training job has changed: its evaluation beside that of the model it was trained from."""

import json
import logging
from urllib.parse import quote

from mlflow.exceptions import MlflowException

from configs.recipe import METRICS
from registry.database import Database
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.tables import Evaluation, TrainingJob
from registry.tracking import TrackedRun, is_outage

logger = logging.getLogger(__name__)

NOTE = "mlflow.note.content"
"""The tag that MLflow's UI shows as a run's description."""


def describe_change(database: Database, evaluation_id: int, run: TrackedRun) -> None:
    """Describe, if a job asked for this evaluation of its model, how that compares with the base; in both runs.

    Raises what MLflow raises.
    """
    with database.reading() as session:
        job = TrainingJobRepository(session).of_evaluation(evaluation_id)
        if job is None or job.base_evaluation_id is None:
            return
        evaluations = EvaluationRepository(session)
        after, before = evaluations.require(evaluation_id), evaluations.require(job.base_evaluation_id)
    note = _note(job, before, after, run)
    run.set_tags({NOTE: note})
    if job.mlflow_run_id is not None:
        try:
            run.client.set_tag(job.mlflow_run_id, NOTE, note)
        except MlflowException as error:
            if is_outage(error):
                raise
            logger.warning("The MLflow run of job %d takes no description: %s", job.id, error)  # deleted there


def _note(job: TrainingJob, before: Evaluation, after: Evaluation, run: TrackedRun) -> str:
    runs, experiments = (
        quote(json.dumps([before.mlflow_run_id, after.mlflow_run_id])),
        quote(f'["{run.experiment_id}"]'),
    )
    url = f"{run.tracking_uri}/#/compare-runs?runs={runs}&experiments={experiments}"
    rows = [f"| {name} | {_shown(before, name)} | {_shown(after, name)} |" for name in METRICS]
    return "\n".join(
        [
            f"Training job {job.id} ({job.job_name}), on the same held-out rows; [both runs side by side]({url})",
            "",
            f"| metric | before: model {before.model_id} | after: model {after.model_id} |",
            "| --- | --- | --- |",
            *rows,
        ]
    )


def _shown(evaluation: Evaluation, metric: str) -> str:
    value, interval = getattr(evaluation, metric), (evaluation.intervals or {}).get(metric)
    if value is None:
        return "-"
    return f"{value:.4g}" + (f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval else "")
