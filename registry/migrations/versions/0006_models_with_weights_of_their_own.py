"""Which models have weights of their own instead of an adapter on the base's."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("models", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.add_column(sa.Column("weights", sa.String(200), nullable=True))
