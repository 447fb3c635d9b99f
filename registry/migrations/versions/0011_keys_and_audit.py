"""Keys made and revoked at run time, who made what, the audit log; no webhook's secret in a remembered answer."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

TABLES = ("models", "training_jobs", "evaluations", "datasets", "webhooks")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("created_by", sa.String(length=64), nullable=True))
    op.create_table(
        "api_keys",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("scope", sa.String(length=10), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("created_by", sa.String(length=64), nullable=True),
        sa.Column("revoked_at", sa.DateTime(), nullable=True),
        sa.Column("revoked_by", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_api_keys")),
    )
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("created_by", sa.String(length=64), nullable=True),
        sa.Column("method", sa.String(length=10), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("resource", sa.String(length=100), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("client", sa.String(length=100), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
        sqlite_autoincrement=True,
    )
    _forget_secrets()


def _forget_secrets() -> None:
    answers = sa.table(
        "idempotency_keys", sa.column("scope", sa.String), sa.column("key", sa.String), sa.column("response", sa.JSON)
    )
    connection = op.get_bind()
    of_webhooks = sa.select(answers).where(answers.c.scope == "POST /v1/webhook_endpoints")
    for scope, key, response in connection.execute(of_webhooks).all():
        kept = {name: value for name, value in response.items() if name != "signing_secret"}
        this = (answers.c.scope == scope) & (answers.c.key == key)
        connection.execute(sa.update(answers).where(this).values(response=kept))
