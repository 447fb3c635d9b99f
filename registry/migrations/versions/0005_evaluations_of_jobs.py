"""Which evaluations show what a training job has changed."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("training_jobs", table_kwargs={"sqlite_autoincrement": True}) as batch:
        for column in ("output_evaluation_id", "base_evaluation_id"):
            batch.add_column(sa.Column(column, sa.Integer(), nullable=True))
            batch.create_foreign_key(f"fk_training_jobs_{column}", "evaluations", [column], ["id"])
