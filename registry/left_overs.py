"""What older versions left in the tables that no migration expects: found and put right before one runs.

Until version 0009 an SQLite database was migrated statement by statement: a killed process left temporary tables, new
columns and dropped indexes of a version that the database does not say it has. And the first release's tables were
version 0001 before columns were added to that same version.
"""

from functools import cache

from sqlalchemy import Connection, Inspector, MetaData, Table, create_engine, event, func, inspect, select, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from registry.migration_runner import run_migrations
from registry.tables import Base

_TEMPORARY = "_alembic_tmp_"
_FIRST_RELEASE_LACKS = (
    ("models", "deleted_at", "TIMESTAMP", "DATETIME"),
    ("training_jobs", "seconds_per_step", "DOUBLE PRECISION", "DOUBLE"),
    # Every event of the first release was a line of a job's log.
    ("job_events", "kind", "VARCHAR(20) NOT NULL DEFAULT 'log'", "VARCHAR(20) NOT NULL DEFAULT 'log'"),
    ("job_events", "data", "JSON NOT NULL DEFAULT '{}'", "JSON NOT NULL DEFAULT '{}'"),
)
"""Table, column, and its type on PostgreSQL and on SQLite."""


def repair(connection: Connection, revision: str | None) -> None:
    """Make the tables what the revision that they are said to have makes them; no row is lost."""
    if connection.dialect.name == "sqlite":
        _undo_interrupted(connection, revision)
    if revision is not None:
        _complete_first_release(connection)


def _undo_interrupted(connection: Connection, revision: str | None) -> None:
    """Take back the parts of a later version that an interrupted migration has left."""
    expected = _tables_at(revision)
    present = inspect(connection)
    for table in present.get_table_names():
        if table.startswith(_TEMPORARY):
            # Its rows are copies: the table itself goes, with the copy's renaming, in one transaction.
            connection.execute(text(f'DROP TABLE "{table}"'))
        elif table in Base.metadata.tables and table not in expected.tables:
            _drop_empty(connection, table)
        elif table in expected.tables:
            _undo_within(connection, present, expected.tables[table])


def _drop_empty(connection: Connection, table: str) -> None:
    # Of a version that was never in use: nobody has written to it.
    if connection.scalar(select(func.count()).select_from(text(f'"{table}"'))) == 0:
        connection.execute(text(f'DROP TABLE "{table}"'))


def _undo_within(connection: Connection, present: Inspector, expected: Table) -> None:
    later = Base.metadata.tables.get(expected.name)
    indexes = {str(index["name"]) for index in present.get_indexes(expected.name)}
    known = set() if later is None else {str(index.name) for index in later.indexes}
    for name in indexes & known - {str(index.name) for index in expected.indexes}:
        connection.execute(text(f'DROP INDEX "{name}"'))
    columns = {column["name"] for column in present.get_columns(expected.name)}
    ours = set() if later is None else set(later.columns.keys())
    for name in columns & ours - set(expected.columns.keys()):
        connection.execute(text(f'ALTER TABLE "{expected.name}" DROP COLUMN "{name}"'))
    for index in expected.indexes:
        # Of the first release's columns, which may be missing, an index is made when they are there.
        if index.name not in indexes and {column.name for column in index.columns} <= columns:
            index.create(connection)


def _complete_first_release(connection: Connection) -> None:
    present = inspect(connection)
    sqlite = connection.dialect.name == "sqlite"
    for table, column, on_postgresql, on_sqlite in _FIRST_RELEASE_LACKS:
        if column not in {found["name"] for found in present.get_columns(table)}:
            kind = on_sqlite if sqlite else on_postgresql
            connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {column} {kind}"))
    if "ix_job_events_job_id_kind" not in {index["name"] for index in present.get_indexes("job_events")}:
        connection.execute(text("CREATE INDEX ix_job_events_job_id_kind ON job_events (job_id, kind, id)"))


@cache
def _tables_at(revision: str | None) -> MetaData:
    """Return the tables as the migrations up to a revision make them, in a database in memory; none: there are none."""
    tables = MetaData()
    if revision is None:
        return tables
    engine = create_engine("sqlite://", poolclass=StaticPool)
    event.listen(engine, "connect", _begin_by_hand)
    try:
        with engine.connect() as connection, connection.begin():
            run_migrations(connection, revision)
            tables.reflect(connection)
    finally:
        engine.dispose()
    return tables


def _begin_by_hand(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None
