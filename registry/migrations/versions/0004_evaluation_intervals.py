"""How sure an evaluation's metrics are, and how far an evaluation is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("evaluations", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.add_column(sa.Column("intervals", sa.JSON(), nullable=True))
        batch.add_column(sa.Column("progress", sa.Double(), nullable=True))
