"""No wait for the database is without an end."""

import threading
import time

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from registry import database as module
from registry.database import Database, upgrade


@pytest.fixture
def quick(database, monkeypatch):
    """The limits of what a test opens itself: seconds instead of minutes."""
    for name in ("STATEMENT", "LOCK", "IDLE_TRANSACTION", "POOL"):
        monkeypatch.setattr(module, f"{name}_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(module, "SQLITE_BUSY_TIMEOUT_SECONDS", 1)


def is_sqlite(database):
    return database.url.startswith("sqlite")


def test_a_statement_ends(quick, database):
    if is_sqlite(database):
        pytest.skip("SQLite computes in this process")
    own = Database(database.url)
    with pytest.raises(OperationalError, match="statement timeout"), own.reading() as session:
        session.execute(text("SELECT pg_sleep(60)"))
    own.close()


def test_a_wait_for_a_lock_ends(quick, database):
    own = Database(database.url)
    with database.transaction() as holder:
        holder.execute(text("UPDATE counters SET value = value"))
        with pytest.raises(SQLAlchemyError), own.transaction() as waiting:
            waiting.execute(text("UPDATE counters SET value = value"))
    own.close()


def test_a_forgotten_transaction_gives_its_locks_back(quick, database):
    if is_sqlite(database):
        pytest.skip("SQLite's locks are their process's")
    own = Database(database.url)
    with own.engine.connect() as forgotten:
        forgotten.execute(text("UPDATE counters SET value = value"))
        time.sleep(2.5)
        with database.transaction() as session:
            session.execute(text("UPDATE counters SET value = value"))
        with pytest.raises(SQLAlchemyError):
            forgotten.execute(text("SELECT 1"))
        forgotten.invalidate()
    own.close()


def test_a_wait_for_a_connection_ends(quick, database):
    own = Database(database.url)
    taken = []

    def take():
        for _ in range(100):
            taken.append(own.engine.connect())

    with pytest.raises(PoolTimeout):
        take()
    for connection in taken:
        connection.close()
    own.close()


def test_a_server_that_does_not_answer_is_given_up(monkeypatch):
    """It takes the connection and says nothing."""
    import socket

    monkeypatch.setattr(module, "CONNECT_TIMEOUT_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        own = Database(f"postgresql+psycopg://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing")
        found = []

        def ping():
            try:
                own.ping()
            except SQLAlchemyError as error:
                found.append(error)

        thread = threading.Thread(target=ping, daemon=True)
        thread.start()
        thread.join(60)
        assert found
        own.close()


def test_who_has_patience_waits_until_a_locked_database_is_free(quick, database):
    if not is_sqlite(database):
        pytest.skip("PostgreSQL locks rows, and nobody waits for one to begin")
    waiting, add = Database(database.url, patience=60), text("UPDATE counters SET value = value + 1")
    with database.transaction() as holder:
        holder.execute(add)
        with pytest.raises(OperationalError, match="locked"), waiting.transaction(now=True) as session:
            session.execute(add)
        release = threading.Timer(3, holder.commit)
        release.start()
        began = time.monotonic()
        with waiting.transaction() as session:
            session.execute(add)
        assert time.monotonic() - began > 1
        release.join()
    with waiting.reading() as session:
        assert session.execute(text("SELECT max(value) FROM counters")).scalar() == 2
    waiting.close()


def test_patience_with_a_database_that_stays_away_ends():
    away = Database("postgresql+psycopg://nobody@127.0.0.1:1/none", patience=2)
    began = time.monotonic()
    with pytest.raises(OperationalError), away.reading():
        pass
    assert 2 <= time.monotonic() - began < 60
    away.close()


def test_an_upgrade_waits_for_who_holds_the_lock(quick, database):
    with database.transaction() as holder:
        holder.execute(text("UPDATE counters SET value = value + 1"))
        release = threading.Timer(3, holder.commit)
        release.start()
        assert upgrade(database.url) is False  # it is the newest already
        release.join()
