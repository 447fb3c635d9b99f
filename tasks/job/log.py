"""A training job's log: every line goes to the job's record, where the API shows it, and to Prefect's run log."""

import logging
import threading
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from registry.repositories.training_jobs import TrainingJobRepository
from registry.tables import TrainingJob
from tasks.job.lease import Lease

RunLogger = logging.Logger | logging.LoggerAdapter[Any]


class JobLog:
    """Lines on their way to the job's log; `flush` stores them, so that no line waits for the database."""

    def __init__(self, lease: Lease[TrainingJob], run_logger: RunLogger) -> None:
        self._lease = lease
        self._run_logger = run_logger
        self._lines: list[str] = []
        self._lock = threading.Lock()

    def line(self, message: str) -> None:
        """Add a line."""
        self._run_logger.info(message)
        with self._lock:
            self._lines.append(message)

    def announce(self, message: str) -> None:
        """Add a line and store it now: the process is about to wait, and nobody else would flush."""
        self.line(message)
        self.flush()

    def flush(self) -> None:
        """Store the lines added since; they are kept for the next time if the database does not answer.

        Raises `LeaseLost`: the job's log is another process's now.
        """
        with self._lock:
            lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            with self._lease.writing() as (session, job):
                TrainingJobRepository(session).log(job.id, *lines)
        except SQLAlchemyError:
            with self._lock:
                self._lines = lines + self._lines
            raise
