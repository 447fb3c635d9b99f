"""Brings the platform's tables to the newest version: every step in one transaction, by one process at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session

from registry.left_overs import repair
from registry.migration_runner import MIGRATIONS, run_migrations
from registry.revisions import Revisions, read_revisions

LOCK_SECONDS = 600
"""How long a process waits for another one that is migrating."""
_POSTGRESQL_LOCK = 0x6C6C6D70
"""Number of the advisory lock that a migrating process holds."""


class SchemaError(Exception):
    """A database can't be brought to the version that this software needs; the message says why and what to do."""


def upgrade_schema(
    engine: Engine, seed: Callable[[Session], None], before_change: Callable[[str | None], None], to: str = "head"
) -> bool:
    """Migrate to the revision `to` and, at the newest, call `seed`: all or nothing. Returns whether a migration ran.

    `before_change` is called with the revision that is there, once nobody else can migrate and before anything is
    changed; what it raises ends the upgrade. Raises SchemaError for a database of newer software.
    """
    known = read_revisions(MIGRATIONS / "versions")
    target = known.head if to == "head" else to
    with _migrating(engine) as connection:
        present = MigrationContext.configure(connection).get_current_revision()
        require_known(present, known, "The platform's database", "the platform")
        changes: bool = present != target
        if changes:
            before_change(present)
            repair(connection, present)
            run_migrations(connection, target)
            _require_valid_references(connection)
        if target == known.head:
            with Session(connection) as session:
                seed(session)
                session.commit()  # of the transaction around it nothing is committed yet
    return changes


def require_known(present: str | None, known: Revisions, what: str, software: str) -> None:
    """Raise SchemaError for a database at a revision that this version of the software has not heard of."""
    if present is not None and present not in known.all:
        raise SchemaError(
            f"{what} is at schema version {present!r}, but the newest that the installed version of {software} knows "
            f"is {known.head!r}: install the version that wrote it, or restore a backup or snapshot that is older."
        )


@contextmanager
def _migrating(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in a transaction that no other migrating process can be in; it is committed at the end."""
    sqlite = engine.dialect.name == "sqlite"
    with engine.execution_options(writes=True).connect() as connection:
        if sqlite:
            # Tables are moved by dropping them: references to them may not be enforced, which only a connection
            # without a transaction can say.
            driver = connection.connection.driver_connection
            assert driver is not None
            driver.execute("PRAGMA foreign_keys=OFF")
            driver.execute(f"PRAGMA busy_timeout={LOCK_SECONDS * 1000}")
        try:
            with connection.begin():
                if not sqlite:
                    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
                    connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _POSTGRESQL_LOCK})
                yield connection
        finally:
            # Its settings are not those of the other connections.
            connection.invalidate()


def _require_valid_references(connection: Connection) -> None:
    if connection.dialect.name != "sqlite":
        return  # enforced while the migrations ran
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        table, row, parent, _ = broken
        raise SchemaError(
            f"The platform's database was not upgraded: row {row} of {table} would name a row of {parent} that is not "
            "there. Nothing was changed."
        )
