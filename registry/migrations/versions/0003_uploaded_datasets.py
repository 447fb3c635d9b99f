"""Data sets that users upload: how each is read, what was found in it, where its rows lie."""

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("datasets", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.alter_column("source", type_=sa.String(length=200), existing_nullable=False)
        # The only row there can be is the built-in data set.
        batch.add_column(sa.Column("uid", sa.String(length=32), nullable=False, server_default=uuid4().hex))
        batch.add_column(sa.Column("status", sa.String(length=20), nullable=False, server_default="READY"))
        batch.add_column(sa.Column("error", sa.Text(), nullable=True))
        batch.add_column(sa.Column("settings", sa.JSON(), nullable=False, server_default="{}"))
        batch.add_column(sa.Column("rows", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("content_hash", sa.String(length=64), nullable=True))
        batch.add_column(sa.Column("report", sa.JSON(), nullable=True))
        batch.add_column(sa.Column("deleted_at", sa.DateTime(), nullable=True))
        batch.create_unique_constraint("uq_datasets_uid", ["uid"])
