"""How many jobs, evaluations and models there are in each status is kept, not counted: triggers note every change."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

STATUSES = {
    "training_jobs": "{row}.status",
    "evaluations": "{row}.status",
    "models": "CASE WHEN {row}.deleted_at IS NULL THEN {row}.status ELSE 'DELETED' END",
}
"""What a row of each table is counted under."""


def upgrade() -> None:
    op.create_table(
        "status_counts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        sa.Column("counted", sa.String(length=20), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("change", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_status_counts")),
    )
    note = _note_on_sqlite if op.get_bind().dialect.name == "sqlite" else _note_on_postgresql
    for table, expression in STATUSES.items():
        status = expression.format(row=table)
        there = f"SELECT '{table}', {status}, count(*) FROM {table} GROUP BY 2"
        op.execute(f"INSERT INTO status_counts (counted, status, change) {there}")
        note(table, expression.format(row="OLD"), expression.format(row="NEW"))


def _note_on_sqlite(table: str, old: str, new: str) -> None:
    into = "INSERT INTO status_counts (counted, status, change) VALUES"
    less, more = f"('{table}', {old}, -1)", f"('{table}', {new}, 1)"
    for when, values in {
        f"AFTER INSERT ON {table}": more,
        f"AFTER DELETE ON {table}": less,
        f"AFTER UPDATE ON {table} WHEN {old} <> {new}": f"{less}, {more}",
    }.items():
        name = f"count_{table}_{when.split()[1].lower()}"
        op.execute(f"CREATE TRIGGER {name} {when} BEGIN {into} {values}; END")


def _note_on_postgresql(table: str, old: str, new: str) -> None:
    into = "INSERT INTO status_counts (counted, status, change) VALUES"
    op.execute(
        f"CREATE FUNCTION count_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF TG_OP <> 'INSERT' THEN {into} ('{table}', {old}, -1); END IF; "
        f"IF TG_OP <> 'DELETE' THEN {into} ('{table}', {new}, 1); END IF; "
        "RETURN NULL; END $$"
    )
    each = f"FOR EACH ROW {{}}EXECUTE FUNCTION count_{table}()"
    op.execute(f"CREATE TRIGGER count_{table}_rows AFTER INSERT OR DELETE ON {table} {each.format('')}")
    changed = each.format(f"WHEN (({old}) <> ({new})) ")
    op.execute(f"CREATE TRIGGER count_{table}_update AFTER UPDATE ON {table} {changed}")
