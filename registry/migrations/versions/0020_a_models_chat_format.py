"""A model may be given a chat template."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("chat_format", sa.JSON(), nullable=True))
