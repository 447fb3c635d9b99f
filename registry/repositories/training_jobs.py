"""Queries on training jobs, their events and their logs."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select

from registry.attempts import killed_for_memory_since
from registry.clock import utcnow
from registry.repositories.flow_backed import DIED, FlowBackedRepository, Outcome, Worker
from registry.repositories.idempotency import forget
from registry.repositories.paging import page
from registry.repositories.webhooks import WebhookRepository
from registry.run_states import TERMINAL
from registry.tables import JobEvent, TrainingJob

EVENTS_PER_PAGE = 1000


class TrainingJobRepository(FlowBackedRepository[TrainingJob]):
    """Training jobs, their progress snapshots and their events."""

    table = TrainingJob

    def add_events(self, job_id: int, events: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Append events of a kind, with their data, in order."""
        if events:
            now = utcnow()
            rows = [
                {"job_id": job_id, "kind": kind, "message": "", "data": dict(data), "created_at": now}
                for kind, data in events
            ]
            self.session.execute(insert(JobEvent), rows)

    def log(self, job_id: int, message: str) -> None:
        """Append a line to the job's log."""
        self.session.add(JobEvent(job_id=job_id, kind="log", message=message, data={}))

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
        told = select(JobEvent.data).where(JobEvent.job_id == job_id, JobEvent.kind.in_(("step", "evaluation")))
        yield from self.session.scalars(told.order_by(JobEvent.id))

    def newest(
        self,
        limit: int,
        before: int | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        unlabelled: bool = False,
    ) -> Sequence[TrainingJob]:
        """Return jobs with ids less than `before`, newest first: all, those with these `labels`, or without any.

        A key of `labels` may have no quote or backslash.
        """
        conditions = [TrainingJob.labels[key].as_string() == value for key, value in (labels or {}).items()]
        if unlabelled:
            conditions.append(TrainingJob.labels.is_(None))
        return page(self.session, TrainingJob, limit, before, *conditions, newest_first=True)

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

    def record_state(self, record: TrainingJob, status: str, state_at: datetime, error: str | None = None) -> bool:
        """Mirror a Prefect state; a changed status is told of as an event, and an end to the webhooks."""
        before = record.status
        changed = super().record_state(record, status, state_at, error)
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
        """Delete the job with its events and the memory of the request that made it."""
        self.session.execute(delete(JobEvent).where(JobEvent.job_id == job.id))
        for endpoint in ("%/training", "%/fine_tuning/jobs"):
            forget(self.session, endpoint, job.id)
        self.session.delete(job)
