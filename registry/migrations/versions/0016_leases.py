"""An attempt lives by a lease that it renews; a record knows which registration of its flow its run belongs to."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

TABLES = ("training_jobs", "evaluations")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("attempt_seen_at", sa.DateTime(timezone=False), nullable=True))
        op.add_column(table, sa.Column("attempt_machine", sa.String(120), nullable=True))
        op.add_column(table, sa.Column("attempt_process_started", sa.BigInteger(), nullable=True))
        op.add_column(table, sa.Column("deployment_id", sa.String(36), nullable=True))
        op.add_column(table, sa.Column("submissions", sa.Integer(), nullable=False, server_default="0"))
