"""What MLflow has not been told of, what tells a lack of memory from another death, and who is being cancelled."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = ("training_jobs", "evaluations")


def upgrade() -> None:
    for table in TABLES:
        with op.batch_alter_table(table) as batch:
            # Set on every row that is there: MLflow is told of each once more, which changes nothing that is right.
            batch.add_column(sa.Column("mlflow_behind", sa.Boolean(), nullable=False, server_default=sa.true()))
            batch.add_column(sa.Column("attempt_oom_kills", sa.Integer(), nullable=True))
            batch.create_index(f"ix_{table}_mlflow_behind", ["mlflow_behind"])
    with op.batch_alter_table("training_jobs") as batch:
        batch.add_column(sa.Column("cancelling", sa.Boolean(), nullable=False, server_default=sa.false()))
