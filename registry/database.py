"""The platform's database: one engine, transactions at the edge, migrations."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import StaticPool

from configs.catalogue import load_catalogue
from configs.dataset import STDLIB_DOCSTRINGS
from registry.repositories.statistics import COUNTERS, GENERATIONS
from registry.schema import LOCK_SECONDS, upgrade_schema
from registry.tables import Counter, Dataset, Model

logger = logging.getLogger(__name__)

SQLITE_BUSY_TIMEOUT_SECONDS = 30
HIDE_PARAMETERS = True
"""Errors name the statement, not its values: those hold secrets of webhooks, and errors are logged."""
SQLITE_LOG_BYTES = 64 * 2**20
POOL_TIMEOUT_SECONDS = 30
"""How long one waits for a connection when all are in use."""
CONNECT_TIMEOUT_SECONDS = 5
STATEMENT_TIMEOUT_SECONDS = 60
LOCK_TIMEOUT_SECONDS = 30
IDLE_TRANSACTION_TIMEOUT_SECONDS = 300
"""A transaction that its process has forgotten, or whose machine is gone, keeps its locks no longer."""
PATIENCE_PAUSE_SECONDS = 1.0
AWAY = (OperationalError, InterfaceError, NoConnectionFree)
"""What is raised where the database does not answer, is locked, or has no connection free."""
DEAD_PEER_SECONDS = 30
"""How long what was sent may stay without an acknowledgement before the server's machine is taken for gone."""


class Database:
    """A pool of connections to the platform's tables, SQLite or PostgreSQL."""

    def __init__(self, url: str, patience: float = 0.0, *, one_connection: bool = False) -> None:
        """Connect at the first use; to SQLite by `one_connection` alone if asked to, for one user at a time.

        `patience` is for how many seconds a database that is away or locked is asked again before a transaction begins.
        Nothing has been done by then, so nothing is done twice. A request has none; a job that worked for a week has.
        """
        self.url = url
        self.engine = _create_engine(url, one_connection=one_connection)
        self._patience = patience
        self._readers = sessionmaker(self.engine, expire_on_commit=False)
        self._writers = sessionmaker(self.engine.execution_options(writes=True), expire_on_commit=False)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session for queries; nothing in it is committed."""
        with self._begun(self._readers, self._patience) as session:
            yield session

    @contextmanager
    def transaction(self, *, now: bool = False) -> Iterator[Session]:
        """Yield a session whose changes are committed together, or not at all if the block raises.

        `now` is for who has no time for this object's patience.
        """
        with self._begun(self._writers, 0.0 if now else self._patience) as session:
            yield session
            session.commit()

    def _begun(self, sessions: sessionmaker[Session], patience: float) -> Session:
        """Return a session; with patience, one whose transaction has begun."""
        session, deadline = sessions(), time.monotonic() + patience
        while patience:
            try:
                session.connection()
                break
            except AWAY as error:
                session.close()
                if time.monotonic() > deadline:
                    raise
                logger.warning("the database is waited for: %s", str(error).splitlines()[0])
                time.sleep(PATIENCE_PAUSE_SECONDS)
        return session

    def ping(self) -> None:
        """Raise `sqlalchemy.exc.SQLAlchemyError` unless the database answers."""
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _create_engine(url: str, *, patient: bool = False, one_connection: bool = False) -> Engine:
    """Return an engine; a `patient` one is for upgrades: it makes new files, and lets PostgreSQL take its time."""
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(
            url,
            pool_pre_ping=True,
            pool_size=10,
            max_overflow=20,
            hide_parameters=HIDE_PARAMETERS,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            connect_args={} if patient else _postgresql_arguments(),
        )
    engine = create_engine(
        url,
        connect_args={
            "timeout": LOCK_SECONDS if patient else SQLITE_BUSY_TIMEOUT_SECONDS,
            "check_same_thread": False,
        },
        hide_parameters=HIDE_PARAMETERS,
        **(
            {"poolclass": StaticPool}
            if one_connection
            else {"pool_size": 10, "max_overflow": 40, "pool_timeout": POOL_TIMEOUT_SECONDS}
        ),
    )
    if patient:
        event.listen(engine, "connect", _give_pages_back)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgresql_arguments() -> dict[str, Any]:
    """Return what no connection to PostgreSQL is without: an end to every wait."""
    limits = {
        "statement_timeout": STATEMENT_TIMEOUT_SECONDS,
        "lock_timeout": LOCK_TIMEOUT_SECONDS,
        "idle_in_transaction_session_timeout": IDLE_TRANSACTION_TIMEOUT_SECONDS,
    }
    return {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "tcp_user_timeout": DEAD_PEER_SECONDS * 1000,
        "options": " ".join(f"-c {name}={seconds}s" for name, seconds in limits.items()),
    }


def _give_pages_back(connection: Any, _record: Any) -> None:
    # Has effect in a new file only: deleted rows' pages can be given back to the disk (tasks/retention/databases.py).
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # Python's driver would open transactions by itself, and always deferred; `_begin_sqlite` decides instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # The write-ahead log of a long transaction shrinks again once it has been written to the database.
    cursor.execute(f"PRAGMA journal_size_limit={SQLITE_LOG_BYTES}")
    # FULL, not NORMAL: what was answered 201 must survive a power cut.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later can't be upgraded once another has written: SQLite refuses
    # at once, whatever the busy timeout. One that will write therefore takes the write lock from its start.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def upgrade(url: str, before_change: Callable[[str | None], None] | None = None, to: str = "head") -> bool:
    """Bring the database at `url` to the newest schema and seed it, creating it (and SQLite's folder) if need be.

    All of it or nothing happens, in one process at a time; returns whether a migration ran. `before_change` is called
    with the revision that is there (None: no tables) before a migration. Raises `registry.schema.SchemaError`.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = _create_engine(url, patient=True)
    try:
        return upgrade_schema(engine, _seed, before_change or _keep_nothing, to)
    finally:
        engine.dispose()


def _keep_nothing(_revision: str | None) -> None:
    """Take no snapshot: a caller that wants one gives another function."""


def _seed(session: Session) -> None:
    """Insert the counters that are not there, and on the first start the catalogue and the built-in data set."""
    # This counter marks a seeded database: a catalogue model that was deleted later must not come back.
    seeded = session.get(Counter, GENERATIONS) is not None
    session.add_all(Counter(name=name, value=0) for name in COUNTERS if session.get(Counter, name) is None)
    if seeded:
        return
    session.add(
        Dataset(
            uid=uuid4().hex,
            name="Python standard library docstrings",
            source=STDLIB_DOCSTRINGS,
            status="READY",
            settings={},
        )
    )
    for entry in load_catalogue():
        session.add(Model(**entry.model_dump(), status="LOADING"))
        session.flush()
