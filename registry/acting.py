"""Which key the present request carries, for what records who made a change."""

from contextvars import ContextVar

acting_key: ContextVar[str | None] = ContextVar("acting_key", default=None)
"""Name of the key; none without keys, and outside of requests to the API."""


def name_of_acting_key() -> str | None:
    """Return the name of the present request's key, or None."""
    return acting_key.get()
