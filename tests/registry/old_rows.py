"""Rows for tables at any version: two in each, every column filled; and what must be left of them after an upgrade."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa

ROWS = (1, 2)
Rows = dict[str, list[dict[str, Any]]]


def fill(url: str) -> None:
    """Insert two rows into every table, as it is defined now."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    tables = sa.MetaData()
    with engine.begin() as connection:
        tables.reflect(connection)
        for table in tables.sorted_tables:
            if table.name != "alembic_version":
                present = set(connection.scalars(sa.select(next(iter(table.primary_key)))))
                # Before version 0003 there was the built-in data set alone.
                alone = table.name == "datasets" and "uid" not in table.columns
                numbers = ROWS[:1] if alone else ROWS
                rows = [{column.name: _value(column, row) for column in table.columns} for row in numbers]
                rows = [row for row in rows if row[next(iter(table.primary_key)).name] not in present]
                if rows:
                    connection.execute(sa.insert(table), rows)
                if engine.dialect.name == "postgresql" and "id" in table.columns:
                    # Rows with given ids do not move the sequence on.
                    sequence = f"pg_get_serial_sequence('{table.name}', 'id')"
                    connection.execute(sa.text(f"SELECT setval({sequence}, {max(ROWS)})"))
    engine.dispose()


def read(url: str) -> Rows:
    """Return every row of every table, in the order of their first column."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    tables = sa.MetaData()
    with engine.connect() as connection:
        tables.reflect(connection)
        found = {
            table.name: [
                dict(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key)).mappings()
            ]
            for table in tables.sorted_tables
        }
    engine.dispose()
    return found


def revision(url: str) -> str | None:
    """Return the version that the tables say they have."""
    rows = read(url).get("alembic_version", [])
    return str(rows[0]["version_num"]) if rows else None


def assert_kept(before: Rows, after: Rows) -> None:
    """Every row of before is there, with the same value in every column that both versions have."""
    for table, rows in before.items():
        if table == "alembic_version":
            continue
        kept = after[table]
        shared = set(kept[0]) & set(rows[0]) if rows else set()
        narrowed = [{name: row[name] for name in shared} for row in kept]
        for row in rows:
            assert {name: row[name] for name in shared} in narrowed


def _value(column: sa.Column[Any], row: int) -> Any:
    """A value of the column's type: the row's number where it names a row, a text of its own elsewhere."""
    if isinstance(column.type, sa.JSON):
        return {"row": row}
    kind = column.type.python_type
    if kind is str:
        return f"{column.name}-{row}"[: getattr(column.type, "length", None) or 200]
    return {int: row, bool: row == 1, float: row + 0.5, datetime: datetime(2026, 1, row)}[kind]
