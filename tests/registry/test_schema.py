"""Upgrades of the platform's tables: whole or not at all, one at a time, and after whatever older versions left."""

import multiprocessing
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from registry.database import Database, upgrade
from registry.migration_runner import MIGRATIONS, run_migrations
from registry.revisions import read_revisions
from registry.schema import SchemaError
from registry.tables import Base
from tests.registry.interrupted import COMMIT, Interruption, count_statements, upgrade_killed
from tests.registry.old_rows import assert_kept, fill, read, revision


def all_revisions() -> list[str]:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return [script.revision for script in reversed(list(ScriptDirectory.from_config(config).walk_revisions()))]


REVISIONS = all_revisions()
STEPS = list(zip([None, *REVISIONS], REVISIONS, strict=False))
# The last version whose migrations ran statement by statement.
LAST_UNSAFE = REVISIONS.index("0009") + 1
MOMENTS = 8
EVERY = -1
"""No moment: every statement is executed."""


def prepare(url: str, at: str | None) -> None:
    if at is not None:
        upgrade(url, to=at)
        fill(url)


def assert_current(url: str) -> None:
    database = Database(url)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    database.close()


def test_the_reader_of_versions_agrees_with_alembic():
    known = read_revisions(MIGRATIONS / "versions")
    assert (known.head, known.all) == (REVISIONS[-1], frozenset(REVISIONS))


@pytest.mark.parametrize(("before", "step"), STEPS)
def test_a_killed_upgrade_changes_nothing_and_the_next_one_does_all(database_url, before, step):
    prepare(database_url, before)
    rows = read(database_url)
    statements = count_statements(database_url, step)
    for moment in (*sorted({0, statements // 3, 2 * statements // 3, statements - 1}), COMMIT):
        upgrade_killed(database_url, step, moment)
        assert read(database_url) == rows
    assert upgrade(database_url)
    assert_current(database_url)
    assert_kept(rows, read(database_url))


@pytest.mark.parametrize(("before", "step"), STEPS[:LAST_UNSAFE])
def test_what_a_killed_upgrade_of_an_older_version_left_is_cleared(tmp_path, before, step):
    """Older versions ran each statement by itself; what such an upgrade left is upgraded, with every row."""
    start = tmp_path / "start.db"
    prepare(f"sqlite:///{start}", before)
    statements = migrate_as_before(copied(start, tmp_path / "whole.db"), step, EVERY)
    for moment in sorted({statements * part // MOMENTS for part in range(MOMENTS)} | {statements - 1}):
        file = copied(start, tmp_path / f"{moment}.db")
        assert migrate_as_before(file, step, moment) == moment
        url = f"sqlite:///{file}"
        rows = read(url)
        left = {name for name in rows if name.startswith("_alembic_tmp_")}
        upgrade(url)
        assert_current(url)
        assert_kept({name: kept for name, kept in rows.items() if name not in left}, read(url))


def copied(start: Path, file: Path) -> Path:
    if start.exists():
        shutil.copy(start, file)
    return file


def migrate_as_before(file: Path, to: str, moment: int) -> int:
    """Migrate as older versions did, in the driver's own transactions; return how many statements were executed.

    The one with the number `moment` is not executed, nor what follows.
    """
    executed = 0

    def interrupt(*_: object) -> None:
        nonlocal executed
        if executed == moment:
            raise Interruption
        executed += 1

    engine = sa.create_engine(f"sqlite:///{file}", poolclass=sa.NullPool)
    sa.event.listen(engine, "before_cursor_execute", interrupt)
    try:
        with engine.connect() as connection:
            run_migrations(connection, to)
    except Interruption:
        pass
    finally:
        engine.dispose()
    return executed


def test_every_table_that_says_so_never_gives_an_id_again(tmp_path):
    file = tmp_path / "platform.db"
    upgrade(f"sqlite:///{file}")
    never = {name for name, table in Base.metadata.tables.items() if table.dialect_options["sqlite"]["autoincrement"]}
    with closing(sqlite3.connect(file)) as connection:
        made = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
    assert {name for name, statement in made.items() if "AUTOINCREMENT" in statement} == never


def test_what_counts_and_finds_rows_is_the_same_after_their_tables_were_written_anew(tmp_path):
    """Triggers go with a table that is dropped, and conditions of indexes are easily lost."""
    file = tmp_path / "platform.db"
    prepare(f"sqlite:///{file}", "0018")
    made = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') ORDER BY name"
    with closing(sqlite3.connect(file)) as connection:
        before = connection.execute(made).fetchall()
        # The newest job was deleted, and its events are still there: its number is taken.
        connection.execute("INSERT INTO removed_jobs (job_id) VALUES (4711)")
        connection.commit()
    upgrade(f"sqlite:///{file}", to="0019")
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute(made).fetchall() == before
        sequences = dict(connection.execute("SELECT name, seq FROM sqlite_sequence"))
        (newest,) = connection.execute("SELECT max(id) FROM evaluations").fetchone()
    assert (sequences["training_jobs"], sequences["evaluations"]) == (4711, newest)


def test_a_database_of_newer_software_is_refused_and_left_as_it_is(database_url):
    upgrade(database_url)
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9042'"))
    engine.dispose()
    rows = read(database_url)
    with pytest.raises(SchemaError, match=r"is at schema version '9042', but the newest .* knows is"):
        upgrade(database_url)
    assert read(database_url) == rows


def test_two_processes_at_once_migrate_once(database_url):
    prepare(database_url, REVISIONS[0])
    processes = multiprocessing.get_context("forkserver")
    with processes.Pool(4) as pool:
        migrated = pool.map(upgrade, [database_url] * 4)
    assert sorted(migrated) == [False, False, False, True]
    assert_current(database_url)


def test_references_that_a_migration_would_break_stop_it(tmp_path):
    file = tmp_path / "platform.db"
    url = f"sqlite:///{file}"
    prepare(url, REVISIONS[0])
    connection = sqlite3.connect(file)
    connection.execute("UPDATE training_jobs SET model_id = 77 WHERE id = 1")
    connection.commit()
    connection.close()
    with pytest.raises(SchemaError, match="row 1 of training_jobs would name a row of models"):
        upgrade(url)
    assert revision(url) == REVISIONS[0]


def test_what_is_called_before_a_change_can_stop_it(database_url):
    prepare(database_url, REVISIONS[0])

    def refuse(at: str | None) -> None:
        raise SchemaError(f"no snapshot of {at}")

    with pytest.raises(SchemaError, match=f"no snapshot of {REVISIONS[0]}"):
        upgrade(database_url, refuse)
    assert revision(database_url) == REVISIONS[0]
    upgrade(database_url)
    assert not upgrade(database_url, refuse)
