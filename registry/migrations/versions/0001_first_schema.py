"""First schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.create_table(
        "datasets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("source", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.String(length=200), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("body_hash", sa.String(length=64), nullable=False),
        sa.Column("resource_id", sa.Integer(), nullable=False),
        sa.Column("response", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("base_model", sa.String(length=200), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("status_reason", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("model_size", sa.String(length=20), nullable=True),
        sa.Column("parameters", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("adapter", sa.String(length=200), nullable=True),
        sa.Column("parent_model_id", sa.Integer(), nullable=True),
        sa.Column("training_job_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.Column("deleted_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["parent_model_id"], ["models.id"], name=op.f("fk_models_parent_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("training_job_id", name=op.f("uq_models_training_job_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_models_base_model", "models", ["base_model"], unique=False)

    op.create_table(
        "evaluations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("eval_name", sa.String(length=200), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("perplexity", sa.Double(), nullable=True),
        sa.Column("bleu_score", sa.Double(), nullable=True),
        sa.Column("rouge_score", sa.Double(), nullable=True),
        sa.Column("response_diversity", sa.Double(), nullable=True),
        sa.Column("avg_response_length", sa.Double(), nullable=True),
        sa.Column("uid", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("flow_run_id", sa.String(length=36), nullable=True),
        sa.Column("flow_state_at", sa.DateTime(), nullable=True),
        sa.Column("mlflow_run_id", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=True),
        sa.Column("completed_at", sa.DateTime(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("attempt_host", sa.String(length=255), nullable=True),
        sa.Column("attempt_pid", sa.Integer(), nullable=True),
        sa.Column("attempt_started_at", sa.DateTime(), nullable=True),
        sa.Column("attempt_ended_at", sa.DateTime(), nullable=True),
        sa.Column("attempt_step", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("crash_step", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_evaluations_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
        sa.UniqueConstraint("flow_run_id", name=op.f("uq_evaluations_flow_run_id")),
        sa.UniqueConstraint("uid", name=op.f("uq_evaluations_uid")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_evaluations_model_id", "evaluations", ["model_id"], unique=False)
    op.create_index("ix_evaluations_status", "evaluations", ["status"], unique=False)

    op.create_table(
        "training_jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.Integer(), nullable=False),
        sa.Column("job_name", sa.String(length=200), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("total_steps", sa.Integer(), nullable=True),
        sa.Column("current_epoch", sa.Integer(), nullable=False),
        sa.Column("current_loss", sa.Double(), nullable=True),
        sa.Column("eval_loss", sa.Double(), nullable=True),
        sa.Column("tokens_per_second", sa.Double(), nullable=True),
        sa.Column("seconds_per_step", sa.Double(), nullable=True),
        sa.Column("pausing", sa.Boolean(), nullable=False),
        sa.Column("output_model_id", sa.Integer(), nullable=True),
        sa.Column("uid", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("flow_run_id", sa.String(length=36), nullable=True),
        sa.Column("flow_state_at", sa.DateTime(), nullable=True),
        sa.Column("mlflow_run_id", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=True),
        sa.Column("completed_at", sa.DateTime(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("attempt_host", sa.String(length=255), nullable=True),
        sa.Column("attempt_pid", sa.Integer(), nullable=True),
        sa.Column("attempt_started_at", sa.DateTime(), nullable=True),
        sa.Column("attempt_ended_at", sa.DateTime(), nullable=True),
        sa.Column("attempt_step", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("crash_step", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_training_jobs_model_id")),
        sa.ForeignKeyConstraint(["output_model_id"], ["models.id"], name=op.f("fk_training_jobs_output_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_jobs")),
        sa.UniqueConstraint("flow_run_id", name=op.f("uq_training_jobs_flow_run_id")),
        sa.UniqueConstraint("uid", name=op.f("uq_training_jobs_uid")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_training_jobs_model_id", "training_jobs", ["model_id"], unique=False)
    op.create_index("ix_training_jobs_status", "training_jobs", ["status"], unique=False)

    op.create_table(
        "job_events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["training_jobs.id"], name=op.f("fk_job_events_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_events_job_id_id", "job_events", ["job_id", "id"], unique=False)
    op.create_index("ix_job_events_job_id_kind", "job_events", ["job_id", "kind", "id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_job_events_job_id_kind", "job_events")
    op.drop_index("ix_job_events_job_id_id", "job_events")

    op.drop_table("job_events")
    op.drop_index("ix_training_jobs_status", "training_jobs")
    op.drop_index("ix_training_jobs_model_id", "training_jobs")

    op.drop_table("training_jobs")
    op.drop_index("ix_evaluations_status", "evaluations")
    op.drop_index("ix_evaluations_model_id", "evaluations")

    op.drop_table("evaluations")
    op.drop_index("ix_models_base_model", "models")

    op.drop_table("models")
    op.drop_table("idempotency_keys")
    op.drop_table("datasets")
    op.drop_table("counters")
