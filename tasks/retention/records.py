"""Rows that have grown old: remembered requests, the audit log, webhook messages, responses, step events."""

from collections.abc import Callable, Iterator
from datetime import datetime

from registry.repositories.retention import RetentionRepository
from tasks.retention.rule import Context, Found

Batch = Callable[[RetentionRepository], int]


def idempotency_keys(context: Context, before: datetime) -> Iterator[Found]:
    """Yield the keys that have been remembered for long enough."""
    return _old(
        context,
        "idempotency keys",
        lambda retention: retention.old_idempotency_keys(before),
        lambda retention: retention.forget_idempotency_keys(before),
    )


def audit_entries(context: Context, before: datetime) -> Iterator[Found]:
    """Yield what the audit log has of long ago."""
    return _old(
        context,
        "entries of the audit log",
        lambda retention: retention.old_audit_entries(before),
        lambda retention: retention.remove_audit_entries(before),
    )


def deliveries(context: Context, before: datetime) -> Iterator[Found]:
    """Yield webhook messages that were delivered or given up."""
    return _old(
        context,
        "webhook messages",
        lambda retention: retention.old_deliveries(before),
        lambda retention: retention.remove_deliveries(before),
    )


def responses(context: Context, before: datetime) -> Iterator[Found]:
    """Yield stored responses that no request has gone on from for long enough."""
    return _old(
        context,
        "responses",
        lambda retention: retention.old_responses(before),
        lambda retention: retention.remove_responses(before),
    )


def conversations(context: Context, before: datetime) -> Iterator[Found]:
    """Yield conversations that no request has added to for long enough."""
    return _old(
        context,
        "conversations",
        lambda retention: retention.old_conversations(before),
        lambda retention: retention.remove_conversations(before),
    )


def _old(context: Context, what: str, counted: Callable[[RetentionRepository], int], batch: Batch) -> Iterator[Found]:
    with context.database.reading() as session:
        count = counted(RetentionRepository(session))
    if count:
        yield Found(f"{count} {what}", 0, _in_batches(context, batch), count)


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
