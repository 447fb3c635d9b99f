"""Rows that have grown old: remembered requests, the audit log, webhook messages, ended jobs' step events."""

from collections.abc import Callable, Iterator
from datetime import datetime

from registry.repositories.retention import RetentionRepository
from tasks.retention.rule import Context, Found

Batch = Callable[[RetentionRepository], int]


def idempotency_keys(context: Context, before: datetime) -> Iterator[Found]:
    """Yield the keys that have been remembered for long enough."""
    with context.database.reading() as session:
        count = RetentionRepository(session).old_idempotency_keys(before)
    if count:
        remove = _in_batches(context, lambda retention: retention.forget_idempotency_keys(before))
        yield Found(f"{count} idempotency keys", 0, remove, count)


def audit_entries(context: Context, before: datetime) -> Iterator[Found]:
    """Yield what the audit log has of long ago."""
    with context.database.reading() as session:
        count = RetentionRepository(session).old_audit_entries(before)
    if count:
        remove = _in_batches(context, lambda retention: retention.remove_audit_entries(before))
        yield Found(f"{count} entries of the audit log", 0, remove, count)


def deliveries(context: Context, before: datetime) -> Iterator[Found]:
    """Yield webhook messages that were delivered or given up."""
    with context.database.reading() as session:
        count = RetentionRepository(session).old_deliveries(before)
    if count:
        remove = _in_batches(context, lambda retention: retention.remove_deliveries(before))
        yield Found(f"{count} webhook messages", 0, remove, count)


def step_events(context: Context, before: datetime) -> Iterator[Found]:
    """Yield what jobs that have ended measured at each step; their logs, states and attempts stay."""
    with context.database.reading() as session:
        retention = RetentionRepository(session)
        counts = {job: retention.count_step_events(job) for job in retention.jobs_with_old_step_events(before)}
    for job, count in counts.items():
        remove = _in_batches(context, lambda retention, job=job: retention.remove_step_events(job))  # type: ignore[misc]
        yield Found(f"{count} step events of job {job}", 0, remove, count)


def _in_batches(context: Context, batch: Batch) -> Callable[[], bool]:
    """Return a removal in transactions of some thousand rows: others may write between two."""

    def remove() -> bool:
        removed = False
        while True:
            with context.database.transaction() as session:
                count = batch(RetentionRepository(session))
            if count == 0:
                return removed
            removed = True

    return remove
