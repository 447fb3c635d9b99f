"""The field's own words: a record whose MLflow run lags behind has a pending sync."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

TABLES = ("training_jobs", "evaluations")


def upgrade() -> None:
    for table in TABLES:
        op.drop_index(f"ix_{table}_mlflow_behind", table)
        with op.batch_alter_table(table) as batch:
            batch.alter_column("mlflow_behind", new_column_name="mlflow_sync_pending", existing_type=sa.Boolean())
        op.create_index(f"ix_{table}_mlflow_sync_pending", table, ["mlflow_sync_pending"])
