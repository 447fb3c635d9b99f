"""Time as the platform stores and shows it: naive UTC with microseconds."""

from datetime import UTC, datetime


def utcnow() -> datetime:
    """Return the present moment, UTC, without an offset."""
    return datetime.now(UTC).replace(tzinfo=None)


def to_naive_utc(moment: datetime) -> datetime:
    """Return an aware moment as naive UTC; a naive one is taken to be UTC already."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def unix_seconds(moment: datetime) -> int:
    """Return whole seconds since 1970 of a naive UTC moment."""
    return int(moment.replace(tzinfo=UTC).timestamp())


def timestamp(moment: datetime) -> str:
    """Return `2025-06-24T13:45:30.123456`: ISO 8601, six decimals always, no offset suffix."""
    return moment.isoformat(timespec="microseconds")
