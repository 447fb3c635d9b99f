"""What a training job has measured, step by step, as a CSV file."""

from sqlalchemy.orm import Session

from api.errors import NotFound
from api.openai_ids import RESULTS, number_of
from registry.repositories.training_jobs import TrainingJobRepository
from registry.run_states import TERMINAL
from registry.step_metrics import results_file
from registry.tables import TrainingJob


def ended_job(session: Session, file_id: str) -> TrainingJob:
    """Return the job that a results file is of; raises `NotFound` until it has ended."""
    job = TrainingJobRepository(session).get(number_of(file_id, RESULTS))
    if job is None or job.status not in TERMINAL:
        raise NotFound(f"There is no file '{file_id}'; a job's result_files name its own once it has ended.")
    return job


def step_metrics(session: Session, job_id: int) -> bytes:
    """Return the file."""
    return results_file(TrainingJobRepository(session).measured(job_id))


def size_of(session: Session, job: TrainingJob) -> int:
    """Return the file's size; only of a job of an older version it takes a look at every step."""
    kept = TrainingJobRepository(session).results_bytes(job)
    return len(step_metrics(session, job.id)) if kept is None else kept
