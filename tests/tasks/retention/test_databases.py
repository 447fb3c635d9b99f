"""The space of deleted rows comes back, in files of both kinds, while others read and write."""

import sqlite3

import pytest

from registry.database import Database, upgrade
from tasks.retention.databases import LEAST_FREE_BYTES, give_back

ROW = b"x" * 4000
ROWS = 2 * LEAST_FREE_BYTES // len(ROW)


def filled_and_emptied(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE filled (content BLOB)")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO filled VALUES (?)", ((ROW,) for _ in range(ROWS)))
    connection.execute("COMMIT")
    connection.execute("DELETE FROM filled WHERE rowid > 10")


@pytest.fixture
def old_file(tmp_path):
    """As SQLite makes one by itself: MLflow's and Prefect's."""
    file = tmp_path / "old.db"
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    filled_and_emptied(connection)
    yield file, connection
    connection.close()


def rows(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT count(*) FROM filled").fetchone()[0]


def test_a_file_of_ours_gives_back_its_pages_at_any_time(tmp_path):
    url = f"sqlite:///{tmp_path / 'platform.db'}"
    upgrade(url)
    database = Database(url)
    with database.engine.connect() as connection:
        filled_and_emptied(connection.connection.driver_connection)
    full = (tmp_path / "platform.db").stat().st_size
    assert full > 2 * LEAST_FREE_BYTES
    assert give_back(tmp_path / "platform.db", idle=False) > LEAST_FREE_BYTES
    assert (tmp_path / "platform.db").stat().st_size < LEAST_FREE_BYTES / 4
    with database.engine.connect() as connection:
        assert rows(connection.connection.driver_connection) == 10
    database.close()


def test_another_file_is_written_anew_once_when_nothing_runs(old_file):
    file, connection = old_file
    full = file.stat().st_size
    give_back(file, idle=False)
    assert file.stat().st_size >= full * 0.9
    assert give_back(file, idle=True) > LEAST_FREE_BYTES
    assert file.stat().st_size < full / 4
    # From now on it gives back single pages.
    connection.execute("DROP TABLE filled")
    filled_and_emptied(connection)
    give_back(file, idle=False)
    assert file.stat().st_size < full / 4
    assert rows(connection) == 10


def test_the_log_of_a_busy_database_is_left_alone(old_file):
    file, connection = old_file
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO filled VALUES ('more')")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        give_back(file, idle=True)
    connection.execute("COMMIT")
    assert rows(connection) == 11
