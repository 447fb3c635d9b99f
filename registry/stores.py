"""The platform's, MLflow's and Prefect's database: the schema version of each, and copies made while it is used."""

import importlib.util
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, NullPool, create_engine, event, inspect, make_url, text

from configs.settings import Settings
from registry.migration_runner import MIGRATIONS
from registry.revisions import Revisions, read_revisions

BUSY_SECONDS = 60
DUMP_SECONDS = 6 * 3600
PREFECT_MIGRATIONS = "server/database/_migrations/versions"
MLFLOW_MIGRATIONS = "store/db_migrations/versions"


class StoreError(Exception):
    """A database can't be read, copied or put back; the message says why and what to do."""


@dataclass(frozen=True)
class Store:
    """One database: a file of SQLite's, or one of a PostgreSQL server's."""

    name: str
    """`platform`, `mlflow` or `prefect`."""
    software: str
    url: str
    """For SQLAlchemy's synchronous drivers."""
    tools: Path | None = None
    """Folder of `pg_dump` and `pg_restore`; none: those on the PATH."""

    @property
    def file(self) -> Path | None:
        """SQLite's file; None on PostgreSQL."""
        url = make_url(self.url)
        return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None

    @property
    def copy_name(self) -> str:
        """Name of a copy's file."""
        return f"{self.name}.dump" if self.file is None else f"{self.name}.db"

    def known(self) -> Revisions:
        """Return the schema versions that the installed software knows."""
        if self.name == "platform":
            return read_revisions(MIGRATIONS / "versions")
        if self.name == "mlflow":
            return read_revisions(_package("mlflow") / MLFLOW_MIGRATIONS)
        dialect = "postgresql" if self.file is None else "sqlite"
        return read_revisions(_package("prefect") / PREFECT_MIGRATIONS / dialect)

    def revision(self) -> str | None:
        """Return the schema version that is there; None: no tables yet."""
        if self.file is not None and not self.file.exists():
            return None
        with self.connection() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return found

    def is_empty(self) -> bool:
        """Return whether there are no tables, or no such file."""
        if self.file is not None and not self.file.exists():
            return True
        with self.connection() as connection:
            return not inspect(connection).get_table_names()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Yield a connection in a transaction that is committed at the end."""
        engine = create_engine(self.url, poolclass=NullPool)
        if self.file is not None:
            event.listen(engine, "connect", _enforce_references)
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()

    def copy(self, target: Path, snapshot: str | None = None) -> None:
        """Write a consistent copy while others read and write; on the disk itself when this returns.

        `snapshot` names one that another connection to PostgreSQL has exported. Raises StoreError.
        """
        if self.file is not None:
            copy_sqlite(self.file, target)
            return
        shared = [] if snapshot is None else [f"--snapshot={snapshot}"]
        self._run_tool("pg_dump", "--format=custom", "--no-owner", f"--file={target}", *shared)
        with target.open("rb") as file:
            os.fsync(file.fileno())

    def put_back(self, copy: Path) -> None:
        """Replace all that is in a PostgreSQL database by a copy. Raises StoreError; then nothing has changed."""
        self._run_tool(
            *("pg_restore", "--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error"),
            str(copy),
        )

    def tool(self, name: str) -> str | None:
        """Return the path of one of PostgreSQL's programs, or None where it is not installed."""
        return shutil.which(name, path=None if self.tools is None else str(self.tools))

    def _run_tool(self, name: str, *arguments: str) -> None:
        program = self.tool(name)
        if program is None:
            raise StoreError(
                f"{name} is not installed, which copies {self.software}'s PostgreSQL database: install PostgreSQL's "
                "client programs, or name their folder by LLM_PLATFORM_POSTGRESQL_TOOLS_DIR."
            )
        url = make_url(self.url)
        password = {} if url.password is None else {"PGPASSWORD": str(url.password)}
        # Without the password: every process's command can be read by anybody on this machine.
        address = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
        done = subprocess.run(
            [program, f"--dbname={address}", "--no-password", *arguments],
            env={**os.environ, **password},
            capture_output=True,
            text=True,
            timeout=DUMP_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise StoreError(f"{name} failed on {self.software}'s database: {' '.join(done.stderr.split())[-500:]}")


def platform_stores(settings: Settings) -> tuple[Store, Store, Store]:
    """Return the platform's, MLflow's and Prefect's database, in this order."""
    data, tools = settings.data_dir, settings.postgresql_tools_dir
    mlflow = settings.mlflow_database_url or f"sqlite:///{data / 'mlflow.db'}"
    prefect = settings.prefect_database_url or f"sqlite:///{data / 'prefect' / 'prefect.db'}"
    return (
        Store("platform", "the platform", settings.platform_database_url, tools),
        Store("mlflow", "MLflow", _synchronous(mlflow), tools),
        Store("prefect", "Prefect", _synchronous(prefect), tools),
    )


def _enforce_references(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA foreign_keys=ON")


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database that others may be writing to: the copy is as it was at one moment, in one file."""
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)) as present,
        closing(sqlite3.connect(target)) as copy,
    ):
        present.backup(copy)
        # Write-ahead logging would put what is written next into a file beside it.
        copy.execute("PRAGMA journal_mode=DELETE")
    with target.open("rb") as file:
        os.fsync(file.fileno())


def replace_sqlite(target: Path, new: Path) -> None:
    """Put a database in the place of another that nobody uses, at once."""
    if target.exists():
        with closing(sqlite3.connect(target, timeout=BUSY_SECONDS)) as old:
            # What waits in the old one's write-ahead log must not be taken for the new one's.
            old.execute("PRAGMA journal_mode=DELETE")
    new.replace(target)


def _synchronous(url: str) -> str:
    """Prefect's server uses asynchronous drivers; here there is no event loop."""
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    driver = {"postgresql": "postgresql+psycopg", "sqlite": "sqlite"}.get(backend, parsed.drivername)
    return parsed.set(drivername=driver).render_as_string(hide_password=False)


def _package(name: str) -> Path:
    """Return an installed package's folder without importing it."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise StoreError(f"The package {name} is not installed.")
    return Path(found.origin).parent
