"""Queries on training jobs and their logs."""

from datetime import datetime

from sqlalchemy import select

from registry.repositories.flow_backed import FlowBackedRepository
from registry.tables import JobEvent, TrainingJob


class TrainingJobRepository(FlowBackedRepository[TrainingJob]):
    """Training jobs, their progress snapshots and their logs."""

    table = TrainingJob

    def log(self, job_id: int, message: str) -> None:
        """Append a line to the job's log."""
        self.session.add(JobEvent(job_id=job_id, message=message))

    def log_lines(self, job_id: int) -> list[tuple[datetime, str]]:
        """Return the job's log, oldest line first."""
        query = select(JobEvent.created_at, JobEvent.message).where(JobEvent.job_id == job_id).order_by(JobEvent.id)
        return [(row.created_at, row.message) for row in self.session.execute(query)]

    def another_runs(self, job_id: int) -> bool:
        """Return whether a job other than this one is running."""
        others = select(TrainingJob.id).where(TrainingJob.status == "RUNNING", TrainingJob.id != job_id).limit(1)
        return self.session.scalar(others) is not None
