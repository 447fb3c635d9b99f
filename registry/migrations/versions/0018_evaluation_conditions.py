"""An evaluation says what its numbers were measured under."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("evaluations", sa.Column("conditions", sa.JSON(), nullable=True))
