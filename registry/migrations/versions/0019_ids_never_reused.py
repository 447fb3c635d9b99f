"""Ids of deleted jobs and evaluations are never given again: version 0009 wrote SQLite's tables anew without that."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

NAMED_BY = {
    "training_jobs": (
        ("models", "training_job_id"),
        ("job_events", "job_id"),
        ("removed_jobs", "job_id"),
        ("webhook_deliveries", "job_id"),
    ),
    "evaluations": (
        ("promotion_tests", "champion_evaluation_id"),
        ("promotion_tests", "challenger_evaluation_id"),
    ),
}
"""Which columns may still name a row that was deleted: its id must not be given again either."""


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for table, columns in NAMED_BY.items():
            _never_reuse(table, columns)


def _never_reuse(table: str, columns: tuple[tuple[str, str], ...]) -> None:
    connection = op.get_bind()
    made = sa.text(
        "SELECT type, name, sql FROM sqlite_master WHERE tbl_name = :table AND type <> 'table' AND sql <> ''"
    )
    beside = connection.execute(made, {"table": table}).tuples().all()
    with op.batch_alter_table(table, recreate="always", table_kwargs={"sqlite_autoincrement": True}):
        pass
    # Triggers went with the old table; indexes as Alembic makes them anew are perhaps not quite the same.
    for kind, name, statement in beside:
        op.execute(f'DROP {kind} IF EXISTS "{name}"')
        op.execute(statement)
    named = " UNION ALL ".join(f"SELECT max({column}) AS id FROM {owner}" for owner, column in columns)
    newest = f"SELECT max(id) FROM (SELECT max(id) AS id FROM {table} UNION ALL {named})"
    op.execute(f"DELETE FROM sqlite_sequence WHERE name = '{table}'")
    op.execute(f"INSERT INTO sqlite_sequence (name, seq) VALUES ('{table}', coalesce(({newest}), 0))")
