"""Queries on training jobs, their events and their logs."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, func, insert, select
from sqlalchemy.orm import aliased

from registry.attempts import killed_for_memory_since
from registry.clock import utcnow
from registry.repositories.flow_backed import DIED, FlowBackedRepository, Outcome, Worker
from registry.repositories.idempotency import forget
from registry.repositories.paging import page
from registry.repositories.webhooks import WebhookRepository
from registry.run_states import TERMINAL
from registry.step_metrics import HEADER_BYTES, KINDS, added_bytes
from registry.stored_values import finite, storable, storable_text
from registry.tables import JobEvent, JobLabel, RemovedJob, TrainingJob

EVENTS_PER_PAGE = 1000
EVENTS_DELETED_AT_ONCE = 1000


class TrainingJobRepository(FlowBackedRepository[TrainingJob]):
    """Training jobs, their progress snapshots and their events."""

    table = TrainingJob

    def add(self, record: TrainingJob) -> TrainingJob:
        """Insert a job with its labels; its id is set on return."""
        super().add(record)
        for key, value in (record.labels or {}).items():
            self.session.add(JobLabel(key=key, value=value, job_id=record.id))
        return record

    def add_events(self, job_id: int, events: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Append events of a kind, with their data, in order; `LookupError` if the job has been deleted.

        A number that is not finite, which JSON has no word for, is stored as null.
        """
        if events:
            job = self._hold(job_id)
            stored = [(kind, storable(data)) for kind, data in events]
            now = utcnow()
            rows = [
                {"job_id": job_id, "kind": kind, "message": "", "data": data, "created_at": now}
                for kind, data in stored
            ]
            self._measure(job, stored)
            self.session.execute(insert(JobEvent), rows)

    def log(self, job_id: int, *lines: str) -> None:
        """Append lines to the job's log; `LookupError` if the job has been deleted."""
        self._hold(job_id)
        now = utcnow()
        rows = [
            {"job_id": job_id, "kind": "log", "message": storable_text(line), "data": {}, "created_at": now}
            for line in lines
        ]
        self.session.execute(insert(JobEvent), rows)

    def record_progress(self, job_id: int, snapshot: Mapping[str, float | int | None]) -> None:
        """Store how far the job is, by the names of its columns; what is not a finite number becomes null."""
        job = self.require(job_id)
        for name, value in snapshot.items():
            setattr(job, name, finite(value))

    def _hold(self, job_id: int) -> TrainingJob:
        """Return the job, whose events nobody else adds to before this transaction's end.

        A reader goes on after the highest id that it has seen. Ids are taken from a sequence before they can be seen:
        on PostgreSQL one that is taken first may be seen last, and would be passed over. Of one job they are therefore
        taken under its lock, and can be seen in their own order.
        """
        return self.require(job_id, "change")

    def _measure(self, job: TrainingJob, events: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Keep the size of the job's results file, so that lists of files need not read its events."""
        measured = [(kind, data) for kind, data in events if kind in KINDS]
        if not measured or job.results_bytes is None:
            return
        last = {kind: self.last_event_step(job.id, kind) for kind in KINDS}
        for kind, data in measured:
            # Steps come one after another, a step's loss before the held-out loss that is measured after it.
            step = data["step"]
            to_a_row = 1 <= step <= last["step"] if kind == "evaluation" else step == last["evaluation"]
            job.results_bytes += added_bytes(data, to_a_row=to_a_row)
            last[kind] = step

    def log_lines(self, job_id: int) -> list[str]:
        """Return the job's log, oldest line first."""
        lines = select(JobEvent.message).where(JobEvent.job_id == job_id, JobEvent.kind == "log")
        return list(self.session.scalars(lines.order_by(JobEvent.id)))

    def events(self, job_id: int, after: int = 0, limit: int = EVENTS_PER_PAGE) -> Sequence[JobEvent]:
        """Return the job's events with an id greater than `after`, oldest first."""
        query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.id > after)
        return self.session.scalars(query.order_by(JobEvent.id).limit(limit)).all()

    def newest_events(self, job_id: int, before: int | None, limit: int) -> Sequence[JobEvent]:
        """Return the job's newest events, with ids less than `before`, the newest first."""
        return page(self.session, JobEvent, limit, before, JobEvent.job_id == job_id, newest_first=True)

    def measured(self, job_id: int) -> Iterator[dict[str, Any]]:
        """Yield what was measured at every step and held-out loss that the job has told of, in the order of telling."""
        told = select(JobEvent.data).where(JobEvent.job_id == job_id, JobEvent.kind.in_(KINDS))
        yield from self.session.scalars(told.order_by(JobEvent.id))

    def results_bytes(self, job: TrainingJob) -> int | None:
        """Return the size of the job's results file; None for a job of an older version, whose size nobody kept."""
        return None if job.results_bytes is None else HEADER_BYTES + job.results_bytes

    def newest(
        self,
        limit: int,
        before: int | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        unlabelled: bool = False,
    ) -> Sequence[TrainingJob]:
        """Return jobs with ids less than `before`, newest first: all, those with these `labels`, or without any."""
        if labels:
            return self._newest_labelled(limit, before, labels)
        conditions = [TrainingJob.labels.is_(None)] if unlabelled else []
        return page(self.session, TrainingJob, limit, before, *conditions, newest_first=True)

    def _newest_labelled(self, limit: int, before: int | None, labels: Mapping[str, str]) -> Sequence[TrainingJob]:
        (key, value), *others = labels.items()
        query = select(TrainingJob).join(JobLabel, JobLabel.job_id == TrainingJob.id)
        query = query.where(JobLabel.key == key, JobLabel.value == value).order_by(JobLabel.job_id.desc()).limit(limit)
        if before is not None:
            query = query.where(JobLabel.job_id < before)
        for key, value in others:
            other = aliased(JobLabel)
            query = query.where(exists().where(other.job_id == JobLabel.job_id, other.key == key, other.value == value))
        return self.session.scalars(query).all()

    def ended(self, limit: int, after: int | None = None, *, newest_first: bool = False) -> Sequence[TrainingJob]:
        """Return jobs that have ended, in id order or in its reverse."""
        return page(
            self.session, TrainingJob, limit, after, TrainingJob.status.in_(TERMINAL), newest_first=newest_first
        )

    def last_event_step(self, job_id: int, kind: str) -> int:
        """Return the step of the job's newest event of a kind, or 0."""
        newest = select(JobEvent.data).where(JobEvent.job_id == job_id, JobEvent.kind == kind)
        data = self.session.scalar(newest.order_by(JobEvent.id.desc()).limit(1))
        return int(data["step"]) if data else 0

    def memory_plan(self, job_id: int) -> dict[str, Any] | None:
        """Return how the job's steps are cut to fit in memory: the newest event that says so; None before the first."""
        newest = select(JobEvent.data).where(JobEvent.job_id == job_id, JobEvent.kind == "memory")
        return self.session.scalar(newest.order_by(JobEvent.id.desc()).limit(1))

    def attempts(self, job_id: int) -> list[dict[str, Any]]:
        """Return each attempt in order: `number`, `host`, `pid`, `started_at`, and `ended_at` and `outcome` or None."""
        query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.kind == "attempt").order_by(JobEvent.id)
        attempts: dict[int, dict[str, Any]] = {}
        for event in self.session.scalars(query):
            number = event.data["number"]
            if "outcome" in event.data:
                attempts[number] |= {"ended_at": event.created_at, "outcome": event.data["outcome"]}
            else:
                attempts[number] = {**event.data, "started_at": event.created_at, "ended_at": None, "outcome": None}
        return list(attempts.values())

    def was_killed_for_memory(self, job: TrainingJob) -> bool:
        """Return whether the job's newest attempt died, and the kernel has killed for memory since it began."""
        attempts = self.attempts(job.id)
        return bool(attempts) and attempts[-1]["outcome"] in (None, DIED) and killed_for_memory_since(job)

    def record_state(
        self, record: TrainingJob, status: str, state_at: datetime, error: str | None = None, *, settled: bool = False
    ) -> bool:
        """Mirror a Prefect state; a changed status is told of as an event, and an end to the webhooks."""
        self.lock(record)
        before = record.status
        changed = super().record_state(record, status, state_at, error, settled=settled)
        if record.status in TERMINAL:
            record.pausing = record.cancelling = False
        if record.status != before:
            self.add_events(record.id, [("state", {"status": record.status, "error": record.error})])
            if record.status in TERMINAL:
                WebhookRepository(self.session).queue(record.id, record.status, state_at)
        return changed

    def begin_attempt(self, record: TrainingJob, worker: Worker) -> None:
        """Record that a process has taken the job up, and tell of it as an event."""
        super().begin_attempt(record, worker)
        self.add_events(record.id, [("attempt", {"number": record.attempt, "host": worker.host, "pid": worker.pid})])

    def end_attempt(self, record: TrainingJob, outcome: Outcome) -> bool:
        """Record that the newest attempt is over, and tell of it as an event."""
        ended = super().end_attempt(record, outcome)
        if ended:
            self.add_events(record.id, [("attempt", {"number": record.attempt, "outcome": outcome})])
        return ended

    def of_evaluation(self, evaluation_id: int) -> TrainingJob | None:
        """Return the job that asked for this evaluation of its model, or None."""
        return self.session.scalar(select(TrainingJob).where(TrainingJob.output_evaluation_id == evaluation_id))

    def another_runs(self, job_id: int) -> bool:
        """Return whether a job other than this one is running."""
        others = select(TrainingJob.id).where(TrainingJob.status == "RUNNING", TrainingJob.id != job_id).limit(1)
        return self.session.scalar(others) is not None

    def queue_position(self, job: TrainingJob) -> int | None:
        """Return the job's place among those that wait for the device, from 1; None if it does not wait."""
        if job.status != "PENDING":
            return None
        queued_at = func.coalesce(TrainingJob.flow_state_at, TrainingJob.created_at)
        mine = job.flow_state_at or job.created_at
        earlier = (queued_at < mine) | ((queued_at == mine) & (TrainingJob.id < job.id))
        query = select(func.count()).select_from(TrainingJob).where(TrainingJob.status == "PENDING", earlier)
        return 1 + (self.session.scalar(query) or 0)

    def remove(self, job: TrainingJob) -> None:
        """Delete the job with the memory of the request that made it; its events, however many, go piece by piece.

        They can't be seen any more: `remove_events` deletes them, in transactions of its own.
        """
        for endpoint in ("%/training", "%/fine_tuning/jobs"):
            forget(self.session, endpoint, job.id)
        self.session.execute(delete(JobLabel).where(JobLabel.job_id == job.id))
        self.session.add(RemovedJob(job_id=job.id))
        self.session.delete(job)

    def remove_events(self) -> bool:
        """Delete some events of a job that was removed; return whether there may be more, of this one or another."""
        removed = self.session.scalar(select(RemovedJob).order_by(RemovedJob.job_id).limit(1))
        if removed is None:
            return False
        of_it = JobEvent.job_id == removed.job_id
        last = select(JobEvent.id).where(of_it).order_by(JobEvent.id).offset(EVENTS_DELETED_AT_ONCE - 1).limit(1)
        last_id = self.session.scalar(last)
        if last_id is not None:
            self.session.execute(delete(JobEvent).where(of_it, JobEvent.id <= last_id))
            return True
        self.session.execute(delete(JobEvent).where(of_it))
        self.session.execute(delete(RemovedJob).where(RemovedJob.job_id == removed.job_id))
        return True
