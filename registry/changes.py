"""Whether anybody has committed to the platform's database since the last look; cheap enough for five a second."""

import sqlite3

from sqlalchemy import make_url, text

from registry.database import Database


class SqliteChanges:
    """Asks SQLite for its `data_version`: a read of shared memory (20 µs) that grows with every other's commit."""

    blocks = False
    """Whether `poll` may wait for somebody."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
        self._seen: int | None = None

    def poll(self) -> bool:
        """Return whether something was committed; `sqlite3.Error` where the file can't be read."""
        version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        changed, self._seen = version != self._seen, version
        return changed

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


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

    def close(self) -> None:
        """Nothing to do: the connection is the pool's."""


Changes = SqliteChanges | PostgresqlChanges


def changes_of(database: Database) -> Changes:
    """Return the watch for this database's kind."""
    url = make_url(database.url)
    if url.get_backend_name() == "sqlite":
        assert url.database is not None
        return SqliteChanges(url.database)
    return PostgresqlChanges(database)
