"""What training jobs and evaluations share: their work is a Prefect flow run, whose state they mirror."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, TypeVar

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from registry.clock import utcnow
from registry.repositories.locking import Lock, for_update
from registry.repositories.paging import EVERYTHING, Filters, conditions_of, page
from registry.run_states import TERMINAL, UNFINISHED
from registry.stored_values import storable_text
from registry.tables import Evaluation, TrainingJob

Record = TypeVar("Record", TrainingJob, Evaluation)
Outcome = Literal["completed", "paused", "failed", "stopped", "died"]
"""How an attempt ended: `stopped` by a signal (a cancellation, a stop of the platform), `died` without a word."""
DIED: Outcome = "died"
RUN_DELETED = "Its flow run was deleted in Prefect"


class LeaseLost(Exception):
    """A process works on a record that another one has taken over, or that is gone: it must leave and write nothing."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that takes a record up: what tells it from every other one."""

    host: str
    pid: int
    machine: str | None = None
    """`registry.attempts.machine`"""
    process_started: int | None = None
    oom_kills: int | None = None


def unfinished(table: type[TrainingJob] | type[Evaluation]) -> ColumnElement[bool]:
    """Return the condition that a record's run has not ended: by the statuses that are, which an index finds."""
    return table.status.in_(UNFINISHED)


class FlowBackedRepository(Generic[Record]):
    """Queries common to records that a flow run stands behind."""

    table: type[Record]

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, record_id: int, lock: Lock | None = None) -> Record | None:
        """Return the record, or None; with `lock` it stays as it is read (see `registry.repositories.locking`)."""
        return self.session.get(self.table, record_id, with_for_update=for_update(lock))

    def require(self, record_id: int, lock: Lock | None = None) -> Record:
        """Return a record that is known to exist; `LookupError` if it does not."""
        record = self.get(record_id, lock)
        if record is None:
            raise LookupError(f"There is no row {record_id} in {self.table.__tablename__}.")
        return record

    def lock(self, record: Record) -> None:
        """Wait for other writers of the record, and read it as they have left it; what was changed here stays."""
        self.session.flush()  # a refresh forgets changes that are not in the database yet
        self.session.refresh(record, with_for_update=for_update("change"))

    def list(
        self,
        limit: int | None = None,
        after: int | None = None,
        filters: Filters = EVERYTHING,
        *,
        newest_first: bool = False,
    ) -> Sequence[Record]:
        """Return records in id order, or in its reverse."""
        conditions = conditions_of(self.table, filters)
        return page(self.session, self.table, limit, after, *conditions, newest_first=newest_first)

    def add(self, record: Record) -> Record:
        """Insert a record; its id is set on return."""
        self.session.add(record)
        self.session.flush()
        return record

    def by_uid(self, uid: str) -> Record | None:
        """Return the record with this uid, or None."""
        return self.session.scalar(select(self.table).where(self.table.uid == uid))

    def by_flow_run(self, flow_run_id: str) -> Record | None:
        """Return the record behind which this flow run stands, or None."""
        return self.session.scalar(select(self.table).where(self.table.flow_run_id == flow_run_id))

    def unsubmitted(self) -> Sequence[Record]:
        """Return records that Prefect has not accepted yet, oldest first; after a restore, also paused ones."""
        waits = self.table.flow_run_id.is_(None) & self.table.status.in_(("PENDING", "PAUSED"))
        waiting = select(self.table).where(waits, unfinished(self.table))
        return sorted(self.session.scalars(waiting), key=lambda record: record.id)

    def under_way(self) -> bool:
        """Return whether any record has a run that waits or works: all that is unfinished and not paused."""
        active = select(self.table.id).where(unfinished(self.table), self.table.status != "PAUSED")
        return self.session.scalar(active.limit(1)) is not None

    def unfinished(self) -> Sequence[Record]:
        """Return records that Prefect has accepted and that are not in a terminal status, oldest first."""
        # Chosen and sorted here: SQLite would go through every run that Prefect has ever accepted, or the whole table.
        active = self.session.scalars(select(self.table).where(unfinished(self.table)))
        return sorted((record for record in active if record.flow_run_id is not None), key=lambda record: record.id)

    def of_flow_run(self, flow_run_id: str, uid: str | None, make: Callable[[], Record | None]) -> Record | None:
        """Return the record behind which a flow run stands, whoever started it.

        `uid` is what the run's tag names: the record that was submitted, unless the run is a copy of another. A run
        that was started elsewhere gets the record that `make` returns; None from it says that it can't be one.
        """
        known = self.by_flow_run(flow_run_id)
        if known is not None:
            return known
        submitted = self.by_uid(uid) if uid is not None else None
        if submitted is not None:
            self.lock(submitted)
            if submitted.flow_run_id in (None, flow_run_id):
                submitted.flow_run_id = flow_run_id
                return submitted
        record = make()
        return self.add(record) if record is not None else None

    def record_state(
        self, record: Record, status: str, state_at: datetime, error: str | None = None, *, settled: bool = False
    ) -> bool:
        """Mirror a Prefect state, unless a newer one has been mirrored; return whether anything changed.

        `state_at` is the state's own timestamp (naive UTC): several observers report the same run, in any order. The
        clock that it is by may have been set back; a `settled` state is known to be the present one without it.
        """
        self.lock(record)
        if not settled and record.flow_state_at is not None and state_at < record.flow_state_at:
            return False
        before = (record.status, record.error)
        record.flow_state_at = state_at
        if record.status != status:
            record.status = status
            record.mlflow_sync_pending = True
        if status == "RUNNING" and record.started_at is None:
            record.started_at = state_at
        # Restarted after an end: a run that goes on has not completed.
        record.completed_at = state_at if status in TERMINAL else None
        record.error = storable_text(error) if error is not None and status in ("FAILED", "CANCELLED") else None
        return before != (record.status, record.error)

    def record_run_deleted(self, flow_run_id: str, deployment_id: str) -> bool:
        """Record that Prefect has no such run any more; return whether it is to be submitted again.

        A run that went with its deployment, which was made anew as `deployment_id`, is submitted again: nobody wanted
        it gone. Any other was deleted by somebody: its record is cancelled, and can be restarted.
        """
        record = self.by_flow_run(flow_run_id)
        if record is None:
            return False
        lost_with_deployment = record.deployment_id is not None and record.deployment_id != deployment_id
        if record.status in TERMINAL:
            record.flow_run_id = None
            return False
        if lost_with_deployment:
            self.submit_again(record)
            return True
        # Not by the day's clock alone, which may have been behind when the last state was set.
        moment = max(utcnow(), record.flow_state_at or utcnow())
        kept = "; restart it to go on from its newest checkpoint" if self.table is TrainingJob else ""
        self.record_state(record, "CANCELLED", moment, f"{RUN_DELETED}{kept}.")
        record.flow_run_id = None
        return False

    def submit_again(self, record: Record) -> None:
        """Let the record be handed to Prefect anew, as a run that has nothing to do with the one before."""
        record.flow_run_id = None
        record.deployment_id = None
        record.flow_state_at = None
        record.submissions += 1
        self.record_state(record, "PENDING", utcnow())
        record.flow_state_at = None

    def link_mlflow_run(self, record: Record, mlflow_run_id: str) -> None:
        """Record which MLflow run carries the record's numbers."""
        record.mlflow_run_id = mlflow_run_id
        record.mlflow_sync_pending = True

    def pending_mlflow_sync(self, limit: int = 100) -> Sequence[Record]:
        """Return records whose MLflow run does not show their status yet."""
        behind = select(self.table).where(self.table.mlflow_sync_pending, self.table.mlflow_run_id.is_not(None))
        return self.session.scalars(behind.order_by(self.table.id).limit(limit)).all()

    def mark_synced(self, record_id: int, status: str) -> None:
        """Record that MLflow shows `status`; if it has changed meanwhile, MLflow is still behind."""
        told = update(self.table).where(self.table.id == record_id, self.table.status == status)
        self.session.execute(told.values(mlflow_sync_pending=False))

    def begin_attempt(self, record: Record, worker: Worker) -> None:
        """Record that a process has taken the record up; one before it that has not ended has died, and is fenced."""
        self.end_attempt(record, DIED)
        record.attempt += 1
        record.attempt_host = worker.host
        record.attempt_pid = worker.pid
        record.attempt_machine = worker.machine
        record.attempt_process_started = worker.process_started
        record.attempt_oom_kills = worker.oom_kills
        record.attempt_started_at = record.attempt_seen_at = utcnow()
        record.attempt_ended_at = None

    def locked(self, record_id: int) -> Record:
        """Return a record that no other transaction can change until this one ends; `LookupError` if it is gone."""
        record = self.session.get(self.table, record_id, with_for_update=True, populate_existing=True)
        if record is None:
            raise LookupError(f"There is no row {record_id} in {self.table.__tablename__}.")
        return record

    def held(self, record_id: int, attempt: int) -> Record:
        """Return the record, locked until the transaction ends, for a write of this attempt's.

        Raises `LeaseLost` if the attempt was taken for dead, or the record is gone: nothing may be written then.
        """
        try:
            record = self.locked(record_id)
        except LookupError as error:
            raise LeaseLost(f"Row {record_id} of {self.table.__tablename__} was deleted.") from error
        if record.attempt != attempt or record.attempt_ended_at is not None:
            raise LeaseLost(
                f"Attempt {attempt} at row {record_id} of {self.table.__tablename__} was taken for dead: it is at "
                f"attempt {record.attempt}."
            )
        return record

    def end_attempt(self, record: Record, outcome: Outcome) -> bool:
        """Record that the newest attempt is over, unless that is known; return whether it was not."""
        self.lock(record)
        if record.attempt == 0 or record.attempt_ended_at is not None:
            return False
        record.attempt_ended_at = utcnow()
        return True

    def count_crash(self, record: Record) -> int:
        """Record that the newest attempt died; return how many in a row did that from the same place."""
        self.end_attempt(record, DIED)
        same_place = record.crash_step == record.attempt_step
        record.crashes = record.crashes + 1 if same_place else 1
        record.crash_step = record.attempt_step
        return record.crashes
