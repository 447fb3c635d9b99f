"""Whether anybody has committed to the platform's database since the last look; cheap enough for five a second."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import make_url, text
from sqlalchemy.orm import Session

from registry.database import Database


class SqliteChanges:
    """Asks SQLite for its `data_version`: a read of shared memory (20 µs) that grows with every other's commit."""

    blocks = False
    """Whether `poll` may wait for somebody."""

    def __init__(self, url: str) -> None:
        self._own = Database(url, one_connection=True)
        self._busy = threading.Lock()
        """Whoever uses the connection."""
        self._driver: Any = None
        """The one connection as the driver has it: SQLAlchemy's way takes five times as long as the question."""
        self._seen: int | None = None

    def poll(self) -> bool:
        """Return whether something was committed; raises `sqlite3.Error` where the file can't be read.

        While `transaction` is at work there is no answer: the next call tells what has changed meanwhile.
        """
        if not self._busy.acquire(blocking=False):
            return False
        try:
            if self._driver is None:
                with closing(self._own.engine.raw_connection()) as connection:
                    self._driver = connection.driver_connection
            assert self._driver is not None
            version: int = self._driver.execute("PRAGMA data_version").fetchone()[0]
        finally:
            self._busy.release()
        changed, self._seen = version != self._seen, version
        return changed

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Yield a transaction that `poll` does not tell of: what SQLite counts is the commits of other connections."""
        with self._busy, self._own.transaction() as session:
            yield session

    def close(self) -> None:
        """Close the connection."""
        self._own.close()


class PostgresqlChanges:
    """Asks PostgreSQL for its newest transaction: one short statement. Others on the same server count as changes."""

    blocks = True

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: str | None = None

    def poll(self) -> bool:
        """Return whether something may have been committed; `SQLAlchemyError` where the server does not answer."""
        with self._database.engine.connect() as connection:
            newest = str(connection.scalar(text("SELECT pg_current_snapshot()")))
        changed, self._seen = newest != self._seen, newest
        return changed

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Yield a transaction; that of this process is one that `poll` tells of, like any other."""
        with self._database.transaction() as session:
            yield session

    def close(self) -> None:
        """Nothing to do: the connection is the pool's."""


Changes = SqliteChanges | PostgresqlChanges


def changes_of(database: Database) -> Changes:
    """Return the watch for this database's kind."""
    if make_url(database.url).get_backend_name() == "sqlite":
        return SqliteChanges(database.url)
    return PostgresqlChanges(database)
