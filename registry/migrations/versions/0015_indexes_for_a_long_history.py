"""No query reads what grows with history: indexes, and what could not be indexed in columns and tables of its own."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

ROWS = 1000
FLOW_BACKED = {"training_jobs": "job_name", "evaluations": "eval_name"}
NAMED = {**FLOW_BACKED, "models": "name", "datasets": "name"}
NOT_OF_THE_NUMBERS = ("eval_name", "model_id", "seed")


def upgrade() -> None:
    _add_columns()
    _free_events_of_their_job()
    _fill()
    _replace_indexes()


def _add_columns() -> None:
    op.add_column("training_jobs", sa.Column("results_bytes", sa.BigInteger(), nullable=True))
    op.add_column("evaluations", sa.Column("numbers_hash", sa.String(length=64), nullable=True))
    op.add_column("datasets", sa.Column("held_out_dataset_id", sa.Integer(), nullable=True))
    op.create_table(
        "job_labels",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.String(length=512), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["training_jobs.id"], name=op.f("fk_job_labels_job_id")),
        sa.PrimaryKeyConstraint("key", "value", "job_id", name=op.f("pk_job_labels")),
    )
    op.create_table(
        "removed_jobs",
        sa.Column("job_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_removed_jobs")),
    )


def _free_events_of_their_job() -> None:
    if op.get_bind().dialect.name != "sqlite":
        op.drop_constraint("fk_job_events_job_id", "job_events", type_="foreignkey")
        op.alter_column("job_events", "id", type_=sa.BigInteger(), existing_nullable=False)
        op.execute("ALTER SEQUENCE job_events_id_seq AS bigint")
        return
    # A copy of the table counts on from its highest id; what was deleted had ids above it, perhaps.
    (highest,) = op.get_bind().execute(sa.text("SELECT max(seq) FROM sqlite_sequence WHERE name = 'job_events'")).one()
    with op.batch_alter_table("job_events", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.drop_constraint("fk_job_events_job_id", type_="foreignkey")
    if highest is not None:
        op.get_bind().execute(sa.text("DELETE FROM sqlite_sequence WHERE name = 'job_events'"))
        counted = sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES ('job_events', :seq)")
        op.get_bind().execute(counted, {"seq": highest})


def _fill() -> None:
    labels = sa.table("job_labels", sa.column("key"), sa.column("value"), sa.column("job_id"))
    for rows in _rows("training_jobs", "labels"):
        found = [{"key": k, "value": v, "job_id": id_} for id_, its in rows for k, v in (its or {}).items()]
        if found:
            op.bulk_insert(labels, found)
    for rows in _rows("evaluations", "parameters"):
        _update("evaluations", "numbers_hash", {id_: _numbers_hash(parameters) for id_, parameters in rows})
    for rows in _rows("datasets", "settings"):
        named = {id_: settings.get("held_out_dataset_id") for id_, settings in rows}
        _update("datasets", "held_out_dataset_id", {id_: own for id_, own in named.items() if own is not None})


def _rows(table: str, column: str) -> Iterator[list[tuple[int, Any]]]:
    """Yield ids and values of a JSON column, some at a time."""
    rows = sa.table(table, sa.column("id", sa.Integer), sa.column(column, sa.JSON))
    after = 0
    while True:
        query = sa.select(rows.c.id, rows.c[column]).where(rows.c.id > after).order_by(rows.c.id).limit(ROWS)
        found = [(id_, value) for id_, value in op.get_bind().execute(query)]
        if not found:
            return
        yield found
        after = found[-1][0]


def _update(table: str, column: str, values: Mapping[int, Any]) -> None:
    if values:
        statement = sa.text(f"UPDATE {table} SET {column} = :value WHERE id = :id")
        op.get_bind().execute(statement, [{"id": id_, "value": value} for id_, value in values.items()])


def _numbers_hash(parameters: Mapping[str, Any]) -> str:
    counting = {name: value for name, value in parameters.items() if name not in NOT_OF_THE_NUMBERS}
    return hashlib.sha256(json.dumps(counting, sort_keys=True).encode()).hexdigest()


def _replace_indexes() -> None:
    for table, name in NAMED.items():
        op.create_index(f"ix_{table}_status_id", table, ["status", "id"])
        op.create_index(f"ix_{table}_name_id", table, [name, "id"])
        op.create_index(f"ix_{table}_created_at_id", table, ["created_at", "id"])
    for table in FLOW_BACKED:
        for column in ("status", "model_id", "mlflow_sync_pending"):
            op.drop_index(f"ix_{table}_{column}", table)
        op.create_index(f"ix_{table}_model_id_id", table, ["model_id", "id"])
        pending, linked = "mlflow_sync_pending", "mlflow_run_id IS NOT NULL"
        if op.get_bind().dialect.name == "sqlite":
            pending += " = 1"
        _create_partial_index(f"ix_{table}_mlflow_sync_pending", table, ["id"], f"{pending} AND {linked}")
    for table in ("models", "datasets"):
        _create_partial_index(f"ix_{table}_present", table, ["deleted_at", "id"], "deleted_at IS NULL")
    _create_partial_index("ix_training_jobs_unlabelled", "training_jobs", ["id"], "labels IS NULL")
    for column in ("output_model_id", "output_evaluation_id", "base_evaluation_id"):
        op.create_index(f"ix_training_jobs_{column}", "training_jobs", [column])
    op.create_index("ix_job_labels_job_id", "job_labels", ["job_id"])
    op.create_index("ix_evaluations_numbers", "evaluations", ["model_id", "numbers_hash", "id"])
    op.drop_index("ix_models_base_model", "models")
    op.create_index("ix_models_base_model_id", "models", ["base_model", "id"])
    op.create_index("ix_models_parent_model_id", "models", ["parent_model_id"])
    _create_partial_index("ix_models_availability", "models", ["base_model", "status", "id"], "weights IS NULL")
    op.create_index("ix_datasets_held_out_dataset_id", "datasets", ["held_out_dataset_id"])
    op.create_index("ix_datasets_content_hash", "datasets", ["content_hash"])
    op.drop_index("ix_webhook_deliveries_webhook_id", "webhook_deliveries")
    op.create_index("ix_webhook_deliveries_webhook_id_id", "webhook_deliveries", ["webhook_id", "id"])
    op.create_index("ix_idempotency_keys_resource_id", "idempotency_keys", ["resource_id"])


def _create_partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
