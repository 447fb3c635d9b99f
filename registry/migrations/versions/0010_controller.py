"""The controller's lease, and how its loops and the platform's services fare; weights that a request waits for."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "controller_lease",
        sa.Column("name", sa.String(length=20), nullable=False),
        sa.Column("holder", sa.String(length=300), nullable=False),
        sa.Column("term", sa.Integer(), nullable=False),
        sa.Column("renewals", sa.BigInteger(), nullable=False),
        sa.Column("renewed_at", sa.DateTime(), nullable=False),
        sa.Column("released", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_controller_lease"),
    )
    op.create_table(
        "loop_states",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("interval_seconds", sa.Double(), nullable=False),
        sa.Column("passes", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last_ok_at", sa.DateTime(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("last_error_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_loop_states"),
    )
    op.create_table(
        "service_states",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("latency_ms", sa.Double(), nullable=True),
        sa.Column("checked_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_service_states"),
    )
    op.add_column("models", sa.Column("fetch_requested_at", sa.DateTime(), nullable=True))
    op.create_index("ix_models_fetch_requested_at", "models", ["fetch_requested_at"])
