"""An evaluation says what its numbers were measured under; tests of who is better are numbered."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("evaluations", sa.Column("conditions", sa.JSON(), nullable=True))
    op.create_table(
        "promotion_tests",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("champion_id", sa.Integer(), nullable=False),
        sa.Column("challenger_id", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("metric", sa.String(length=40), nullable=False),
        sa.Column("champion_evaluation_id", sa.Integer(), nullable=False),
        sa.Column("challenger_evaluation_id", sa.Integer(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("p_value", sa.Double(), nullable=True),
        sa.Column("alpha", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=False), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotion_tests")),
        sa.UniqueConstraint("champion_id", "challenger_id", "dataset_id", "number", name="uq_promotion_tests_number"),
        sa.UniqueConstraint(
            "challenger_evaluation_id", "champion_evaluation_id", "metric", name="uq_promotion_tests_evaluations"
        ),
        sqlite_autoincrement=True,
    )
