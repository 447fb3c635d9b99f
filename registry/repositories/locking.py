"""Row locks: they keep two writers of one row apart on PostgreSQL; on SQLite a writer has the database to itself.

Every writing transaction of this platform reads first and writes what follows from it. Whatever it relies on it
therefore reads with a lock, in this order: models, data sets, the record, its webhooks. See docs/decisions/0023.
"""

from typing import Any, Literal

Lock = Literal["use", "change"]
"""`use`: nobody may change the row before this transaction's end, others may use it too; `change`: it is ours alone.

Rows may go on to be named by foreign keys all the while: that waits for neither.
"""

_CLAUSES: dict[Lock, dict[str, bool]] = {"use": {"read": True}, "change": {"key_share": True}}


def for_update(lock: Lock | None) -> Any:
    """Return what SQLAlchemy's `with_for_update` takes, to wait for other writers and read what they have left."""
    return None if lock is None else _CLAUSES[lock]
