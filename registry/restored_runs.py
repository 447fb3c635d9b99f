"""Makes the platform's and Prefect's tables agree after a restore: they were copied at two moments, Prefect's first.

What was unfinished is submitted again under its own name and goes on from its newest checkpoint: a job's run in Prefect
may be unknown there, or in an older state. Runs that nobody would end, or that would run beside the new ones, go.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, text

from registry.clock import utcnow
from registry.database import Database
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.stores import Store
from registry.submissions import EVALUATION_TAG, JOB_TAG
from registry.tables import TrainingJob

Repository = TrainingJobRepository | EvaluationRepository
KINDS: tuple[Callable[[Any], Repository], ...] = (TrainingJobRepository, EvaluationRepository)
# A crashed run is none of them: it is tried again.
_ENDED_IN_PREFECT = ("COMPLETED", "FAILED", "CANCELLED")


@dataclass(frozen=True)
class _Run:
    state_type: str
    ours: bool
    """Whether a record of ours was submitted as this run."""

    @property
    def ended(self) -> bool:
        return self.state_type in _ENDED_IN_PREFECT


def settle(platform: Store, prefect: Store, made_at: str) -> int:
    """Return how many unfinished jobs and evaluations will be submitted again, from a backup of the moment `made_at`.

    Completed ones stay completed, and paused ones paused. Nothing may run on the databases.
    """
    database = Database(platform.url)
    try:
        with _prefect_connection(prefect) as connection:
            runs = {} if connection is None else _read_runs(connection)
            again, gone = 0, {flow_run_id for flow_run_id, run in runs.items() if run.ours and not run.ended}
            with database.transaction() as session:
                for kind in KINDS:
                    repository: Any = kind(session)
                    gone |= _unended_runs(repository, runs)
                    for record in repository.unfinished():
                        again += _take_back(repository, record, runs, made_at)
            # Last: should this end in between, it is done anew.
            if connection is not None:
                _delete_runs(connection, gone)
    finally:
        database.close()
    return again


def _take_back(repository: Any, record: Any, runs: dict[str, _Run], made_at: str) -> bool:
    """Let an unfinished record be submitted again, unless it was being cancelled or Prefect knows how it ended."""
    repository.end_attempt(record, "stopped")
    run = runs.get(record.flow_run_id)
    if run is not None and run.ended:
        return False  # the controller had not seen it yet, and will
    is_job = isinstance(record, TrainingJob)
    if is_job and record.cancelling:
        record.cancelling = False
        repository.record_state(record, "CANCELLED", utcnow(), "It was being cancelled when the backup was made.")
        return False
    paused = record.status == "PAUSED" or (is_job and record.pausing)
    repository.record_state(record, "PAUSED" if paused else "PENDING", utcnow())
    # The run that is to come decides, whatever the clocks said when the backup was made.
    record.flow_state_at = record.flow_run_id = None
    record.mlflow_sync_pending = record.mlflow_run_id is not None
    if is_job:
        record.pausing = False
        repository.log(record.id, f"Restored from the backup of {made_at}; goes on from its newest checkpoint")
    return True


def _unended_runs(repository: Any, runs: dict[str, _Run]) -> set[str]:
    """Return the runs of records that Prefect would still run: also of records that have ended since."""
    known = set(repository.session.scalars(select(repository.table.flow_run_id)))
    return {flow_run_id for flow_run_id in known & runs.keys() if not runs[flow_run_id].ended}


@contextmanager
def _prefect_connection(prefect: Store) -> Iterator[Connection | None]:
    if prefect.revision() is None:
        yield None
        return
    with prefect.connection() as connection:
        yield connection


def _read_runs(connection: Connection) -> dict[str, _Run]:
    query = text("SELECT CAST(id AS VARCHAR(36)), state_type, CAST(tags AS VARCHAR) FROM flow_run")
    runs = {}
    for flow_run_id, state_type, tags in connection.execute(query):
        ours = any(tag.startswith((JOB_TAG, EVALUATION_TAG)) for tag in json.loads(tags))
        runs[str(flow_run_id)] = _Run(str(state_type), ours)
    return runs


def _delete_runs(connection: Connection, flow_run_ids: set[str]) -> None:
    """Delete flow runs; what belongs to them goes with them, as when Prefect's own API deletes one."""
    query = text("DELETE FROM flow_run WHERE CAST(id AS VARCHAR(36)) = :id")
    for flow_run_id in flow_run_ids:
        connection.execute(query, {"id": flow_run_id})
