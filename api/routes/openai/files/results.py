"""What a training job has measured, step by step, as a CSV file."""

import csv
import io
from typing import Any

from sqlalchemy.orm import Session

from api.errors import NotFound
from api.openai_ids import RESULTS, number_of
from registry.repositories.training_jobs import TrainingJobRepository
from registry.run_states import TERMINAL
from registry.tables import TrainingJob

COLUMNS = {
    "step": "step",
    "train_loss": "loss",
    "valid_loss": "eval_loss",
    "learning_rate": "learning_rate",
    "tokens_per_second": "tokens_per_second",
}
"""Each column of the file, and the metric's name in the job's events."""


def ended_job(session: Session, file_id: str) -> TrainingJob:
    """Return the job that a results file is of; raises `NotFound` until it has ended."""
    job = TrainingJobRepository(session).get(number_of(file_id, RESULTS))
    if job is None or job.status not in TERMINAL:
        raise NotFound(f"There is no file '{file_id}'; a job's result_files name its own once it has ended.")
    return job


def step_metrics(session: Session, job_id: int) -> bytes:
    """Return the CSV: a row per step, with what was measured after it; a field is empty where nothing was."""
    rows: dict[int, dict[str, Any]] = {}
    for data in TrainingJobRepository(session).measured(job_id):
        rows.setdefault(data["step"], {}).update(data)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([rows[step].get(metric) for metric in COLUMNS.values()] for step in sorted(rows))
    return text.getvalue().encode()
