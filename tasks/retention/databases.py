"""Gives back the space of deleted rows: SQLite keeps it in its files until it is told to."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from configs.settings import Settings

MEGABYTE = 2**20
LEAST_FREE_BYTES = 16 * MEGABYTE
LEAST_FREE_SHARE = 0.25
"""Less is not worth writing the file anew: new rows fill it."""
PAGES_AT_ONCE = 2000
"""Of a file that gives space back by itself: 8 MB, in one short transaction."""
BUSY_SECONDS = 5.0
INCREMENTAL = 2


def sqlite_files(settings: Settings) -> list[Path]:
    """Return the SQLite files of the platform, MLflow and Prefect that there are."""
    prefect = settings.prefect_database_url or f"sqlite:///{settings.data_dir / 'prefect' / 'prefect.db'}"
    urls = (settings.platform_database_url, settings.mlflow_store_url, prefect)
    parsed = [make_url(url) for url in urls]
    files = [Path(one.database) for one in parsed if one.get_backend_name() == "sqlite" and one.database]
    return [file for file in files if file.is_file()]


def give_back(file: Path, *, idle: bool) -> int:
    """Return the free pages of a database, and its write-ahead log, to the disk; returns the bytes.

    A file that was not made to give back single pages is written anew, once, if the platform is `idle` and much of it
    is free: its writers wait meanwhile. Raises `sqlite3.Error`, such as for a database that is busy.
    """
    before = _size(file)
    with closing(sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        if _pragma(connection, "auto_vacuum") == INCREMENTAL:
            while _pragma(connection, "freelist_count") > 0:
                connection.execute(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})").fetchall()
        elif idle and _worth_it(connection):
            connection.execute(f"PRAGMA auto_vacuum={INCREMENTAL}")
            connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return max(0, before - _size(file))


def _worth_it(connection: sqlite3.Connection) -> bool:
    pages, free = _pragma(connection, "page_count"), _pragma(connection, "freelist_count")
    return free * _pragma(connection, "page_size") >= LEAST_FREE_BYTES and free >= LEAST_FREE_SHARE * pages


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _size(file: Path) -> int:
    parts = (file, file.with_name(f"{file.name}-wal"))
    return sum(part.stat().st_size for part in parts if part.exists())
