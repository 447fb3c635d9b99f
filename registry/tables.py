"""The platform's tables: identity, lineage, progress snapshots, and what lists show."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from registry.acting import name_of_acting_key
from registry.clock import utcnow


class Base(DeclarativeBase):
    """Base of all tables; constraints are named so that migrations can address them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        dict[str, Any]: JSON,
        datetime: DateTime(timezone=False),
        float: Double,
    }


# SQLite reuses the highest id after a delete unless AUTOINCREMENT forbids it; ids are never reused.
NEVER_REUSED = {"sqlite_autoincrement": True}


def partial_index(name: str, *columns: str, where: str, sqlite_where: str | None = None) -> Index:
    """Return an index of the rows of which a condition holds; `sqlite_where` where SQLite spells it otherwise."""
    return Index(name, *columns, postgresql_where=text(where), sqlite_where=text(sqlite_where or where))


def filter_indexes(table: str, name_column: str) -> tuple[Index, ...]:
    """Return the indexes behind the filters of a list; each ends with the id, in whose order lists are."""
    return (
        Index(f"ix_{table}_status_id", "status", "id"),
        Index(f"ix_{table}_name_id", name_column, "id"),
        Index(f"ix_{table}_created_at_id", "created_at", "id"),
    )


def flow_backed_indexes(table: str) -> tuple[Index, ...]:
    """Return the indexes of a table of records that a flow run stands behind."""
    return (
        Index(f"ix_{table}_model_id_id", "model_id", "id"),
        partial_index(
            f"ix_{table}_mlflow_sync_pending",
            "id",
            where="mlflow_sync_pending AND mlflow_run_id IS NOT NULL",
            sqlite_where="mlflow_sync_pending = 1 AND mlflow_run_id IS NOT NULL",
        ),
    )


class MadeByKey:
    """Whose request made the record."""

    created_by: Mapped[str | None] = mapped_column(String(64), default=name_of_acting_key)
    """Name of the API key; none where the platform had no keys, or made the record by itself."""


class Model(MadeByKey, Base):
    """A base model of the catalogue, one a user added, or one that a training job made."""

    __tablename__ = "models"
    __table_args__ = (
        *filter_indexes("models", "name"),
        Index("ix_models_base_model_id", "base_model", "id"),
        partial_index("ix_models_present", "deleted_at", "id", where="deleted_at IS NULL"),
        partial_index("ix_models_availability", "base_model", "status", "id", where="weights IS NULL"),
        NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    base_model: Mapped[str] = mapped_column(String(200))
    status: Mapped[str] = mapped_column(String(20))
    status_reason: Mapped[str | None] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text, default="")
    model_size: Mapped[str | None] = mapped_column(String(20))
    parameters: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    adapter: Mapped[str | None] = mapped_column(String(200))
    """Name of the adapter's folder under `adapters_dir`; none for a model without one."""
    weights: Mapped[str | None] = mapped_column(String(200))
    """Name of the folder under `weights_dir` with the whole model, if a job trained it or the model it came from as a
    whole; none: the weights are the base model's."""
    chat_format: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """`configs.chat_format.ChatFormat` in the place of the one in its files; none: that one."""
    parent_model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id"), index=True)
    training_job_id: Mapped[int | None] = mapped_column(unique=True)
    """The job that made it; no foreign key, as jobs point at models already (a cycle can't be created in order)."""
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(default=utcnow, onupdate=utcnow)
    fetch_requested_at: Mapped[datetime | None] = mapped_column(index=True)
    """When a request needed weights that only the hub has; the controller fetches them, and sets it to None."""
    deleted_at: Mapped[datetime | None]
    """A deleted model is shown nowhere; its row stays, as jobs and evaluations point at it."""

    @property
    def is_base(self) -> bool:
        """Whether it is a base model as it came, which no job has changed."""
        return self.adapter is None and self.weights is None


class FlowBacked(MadeByKey):
    """Columns of a record whose work is a Prefect flow run."""

    uid: Mapped[str] = mapped_column(String(32), unique=True)
    """Our name for the record, a UUID in hex: the flow run carries it as a tag and as its idempotency key."""
    status: Mapped[str] = mapped_column(String(20), default="PENDING")
    flow_run_id: Mapped[str | None] = mapped_column(String(36), unique=True)
    """None until Prefect has accepted the run: such a record is submitted as soon as Prefect answers."""
    deployment_id: Mapped[str | None] = mapped_column(String(36))
    """Which registration of its flow the run belongs to: a deployment that is deleted takes its queued runs along."""
    submissions: Mapped[int] = mapped_column(default=0)
    """How often it was handed to Prefect again, because the run before was lost without anybody's wish."""
    flow_state_at: Mapped[datetime | None]
    """Moment of the newest Prefect state seen; an older one, arriving late, changes nothing."""
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))
    mlflow_sync_pending: Mapped[bool] = mapped_column(default=False)
    """MLflow has not been told of the newest status yet."""
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    attempt: Mapped[int] = mapped_column(default=0)
    """Number of the newest process that has worked on the record, from 1."""
    attempt_host: Mapped[str | None] = mapped_column(String(255))
    attempt_pid: Mapped[int | None]
    attempt_started_at: Mapped[datetime | None]
    attempt_ended_at: Mapped[datetime | None]
    attempt_seen_at: Mapped[datetime | None]
    """When the newest attempt last renewed its lease, by its own clock: observers look at whether it changes, only."""
    attempt_machine: Mapped[str | None] = mapped_column(String(120))
    """Where `attempt_pid` names a process: `registry.attempts.machine`."""
    attempt_process_started: Mapped[int | None] = mapped_column(BigInteger)
    """When that process began, in clock ticks since its machine did: a number that is used again has another one."""
    attempt_oom_kills: Mapped[int | None]
    """How many processes the kernel had killed for lack of memory when the newest attempt began."""
    attempt_step: Mapped[int] = mapped_column(default=0)
    """Steps that were done when the newest attempt began: where it went on from."""
    crashes: Mapped[int] = mapped_column(default=0)
    """Attempts in a row that died after beginning at `crash_step`."""
    crash_step: Mapped[int | None]


class TrainingJob(FlowBacked, Base):
    """A fine-tuning job: what was asked, and a snapshot of how far it is."""

    __tablename__ = "training_jobs"
    __table_args__ = (
        *filter_indexes("training_jobs", "job_name"),
        *flow_backed_indexes("training_jobs"),
        partial_index("ix_training_jobs_unlabelled", "id", where="labels IS NULL"),
        NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    job_name: Mapped[str] = mapped_column(String(200))
    recipe: Mapped[dict[str, Any]]
    labels: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """What the client calls `metadata`, a name that SQLAlchemy keeps for itself: texts by their keys; `JobLabel` has
    each of them once more, to find jobs by."""
    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int | None]
    current_epoch: Mapped[int] = mapped_column(default=0)
    current_loss: Mapped[float | None]
    eval_loss: Mapped[float | None]
    tokens_per_second: Mapped[float | None]
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    """Tokens read so far, padding not counted; none before the first step, and of jobs of older versions."""
    seconds_per_step: Mapped[float | None]
    """A moving average, for the time that is left."""
    pausing: Mapped[bool] = mapped_column(default=False)
    """A pause was asked for and the trainer has not left yet."""
    cancelling: Mapped[bool] = mapped_column(default=False)
    """A cancellation was asked for and the trainer has not left yet."""
    results_bytes: Mapped[int | None] = mapped_column(BigInteger, default=0)
    """Size of the rows of its results file, kept as its steps are reported; none for jobs of older versions."""
    output_model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id"), index=True)
    output_evaluation_id: Mapped[int | None] = mapped_column(ForeignKey("evaluations.id"), index=True)
    """The evaluation of the model that it made; none if the recipe wants none."""
    base_evaluation_id: Mapped[int | None] = mapped_column(ForeignKey("evaluations.id"), index=True)
    """The evaluation, on the same rows, of the model trained from: made for this job, or there already."""


class JobLabel(Base):
    """A label of a training job: its key is in the order by which jobs are found, newest first."""

    __tablename__ = "job_labels"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("training_jobs.id"), primary_key=True, index=True)


class RemovedJob(Base):
    """A deleted training job whose events are still being deleted, some at a time."""

    __tablename__ = "removed_jobs"

    job_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class JobEvent(Base):
    """Something that happened to a training job; the events of kind `log` are its log."""

    __tablename__ = "job_events"
    __table_args__ = (
        Index("ix_job_events_job_id_id", "job_id", "id"),
        Index("ix_job_events_job_id_kind", "job_id", "kind", "id"),
        NEVER_REUSED,
    )

    # A job has an event a step: in some years they are more than four bytes can count.
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    job_id: Mapped[int]
    """No foreign key: a job goes at once, and its events after it. Whoever adds some holds the job's row."""
    kind: Mapped[str] = mapped_column(String(20))
    """`log`, `state`, `attempt`, `memory`, `step`, `evaluation` or `checkpoint`."""
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)


class Evaluation(FlowBacked, Base):
    """An evaluation of one model; its five metrics are null until they have been computed."""

    __tablename__ = "evaluations"
    __table_args__ = (
        *filter_indexes("evaluations", "eval_name"),
        *flow_backed_indexes("evaluations"),
        Index("ix_evaluations_numbers", "model_id", "numbers_hash", "id"),
        NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    eval_name: Mapped[str] = mapped_column(String(200))
    parameters: Mapped[dict[str, Any]]
    numbers_hash: Mapped[str | None] = mapped_column(String(64))
    """SHA-256 of those parameters that its metrics depend on: equal ones would give the same numbers."""
    perplexity: Mapped[float | None]
    bleu_score: Mapped[float | None]
    rouge_score: Mapped[float | None]
    response_diversity: Mapped[float | None]
    avg_response_length: Mapped[float | None]
    intervals: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """`[low, high]` or null for each metric: its 95% confidence interval; none before version 0004 of these tables."""
    conditions: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """What its numbers were measured under, `tasks.metrics.conditions.Conditions`; none before they are there, and
    before version 0018 of these tables."""
    progress: Mapped[float | None]
    """Percent of the samples that are done; none until the first attempt begins."""


class PromotionTest(Base):
    """A test of whether a model is better than the champion, or than its base where there is none."""

    __tablename__ = "promotion_tests"
    __table_args__ = (
        UniqueConstraint("champion_id", "challenger_id", "dataset_id", "number", name="uq_promotion_tests_number"),
        UniqueConstraint(
            "challenger_evaluation_id", "champion_evaluation_id", "metric", name="uq_promotion_tests_evaluations"
        ),
        NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    champion_id: Mapped[int]
    """The model to beat; no foreign keys: a test outlives the evaluations that it compared."""
    challenger_id: Mapped[int]
    dataset_id: Mapped[int]
    """Whose held-out rows both were evaluated on."""
    number: Mapped[int]
    """From 1, among the tests of these two models over this data set, whatever the metric."""
    metric: Mapped[str] = mapped_column(String(40))
    champion_evaluation_id: Mapped[int]
    challenger_evaluation_id: Mapped[int]
    rows: Mapped[int]
    p_value: Mapped[float | None]
    alpha: Mapped[float]
    """What the p-value had to be below."""
    created_at: Mapped[datetime] = mapped_column(default=utcnow)


class Dataset(MadeByKey, Base):
    """A data set that jobs and evaluations can name; id 1 is the built-in one."""

    __tablename__ = "datasets"
    __table_args__ = (
        *filter_indexes("datasets", "name"),
        partial_index("ix_datasets_present", "deleted_at", "id", where="deleted_at IS NULL"),
        NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    uid: Mapped[str] = mapped_column(String(32), unique=True)
    """Our name for it, a UUID in hex: the uploaded file waits under it to be checked."""
    source: Mapped[str] = mapped_column(String(200))
    """Where the rows come from: `stdlib-docstrings` (made on this machine), `upload`, a local name or a hub id."""
    status: Mapped[str] = mapped_column(String(20))
    """`VALIDATING`, `READY` or `INVALID`."""
    error: Mapped[str | None] = mapped_column(Text)
    settings: Mapped[dict[str, Any]]
    """`configs.dataset.DatasetSettings`: how it was read, and how it is split."""
    rows: Mapped[int | None]
    held_out_dataset_id: Mapped[int | None] = mapped_column(index=True)
    """The data set that its settings name for held-out rows, once more: what is named can't be deleted."""
    content_hash: Mapped[str | None] = mapped_column(String(64), index=True)
    """SHA-256 over the rows, and the name of their folder under `datasets_dir`; none for the built-in data set."""
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    deleted_at: Mapped[datetime | None]
    """A deleted data set is shown nowhere; its row stays, as jobs and evaluations name it."""


class Webhook(MadeByKey, Base):
    """A target that is told of the ends of training jobs."""

    __tablename__ = "webhooks"
    __table_args__ = (NEVER_REUSED,)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    url: Mapped[str] = mapped_column(Text)
    statuses: Mapped[list[str]] = mapped_column(JSON)
    """Which ends it is told of: some of `registry.run_states.TERMINAL`."""
    secret: Mapped[str] = mapped_column(String(100))
    """What its messages are signed with; kept as it is, since signing needs it."""
    old_secret: Mapped[str | None] = mapped_column(String(100))
    """The secret before, with which messages are signed as well until `old_secret_until`."""
    old_secret_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(default=utcnow, onupdate=utcnow)


class WebhookDelivery(Base):
    """The message of one job's end to one target: written with the end, kept when it has been delivered."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_webhook_id_id", "webhook_id", "id"),
        NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhooks.id"))
    uid: Mapped[str] = mapped_column(String(32), unique=True)
    """The message's name, a UUID in hex; the same at every attempt."""
    event_uid: Mapped[str] = mapped_column(String(32))
    """The end's name, a UUID in hex; the same for every target."""
    job_id: Mapped[int]
    """The job that ended; no foreign key: it may be deleted before the message is delivered."""
    job_status: Mapped[str] = mapped_column(String(20))
    ended_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    attempted_at: Mapped[datetime | None]
    """Moment of the newest attempt's end."""
    next_attempt_at: Mapped[datetime | None] = mapped_column(index=True)
    """None: it has been delivered, or given up. Set before each attempt, in case its sender dies."""
    answer_status: Mapped[int | None]
    """HTTP status of the newest attempt's answer; none if there was no answer."""
    error: Mapped[str | None] = mapped_column(Text)
    """Why the newest attempt was in vain."""
    delivered_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)


class Counter(Base):
    """A number that only grows, such as answered generations."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[int] = mapped_column(default=0)


class StatusCount(Base):
    """How many more rows of a table there are in a status; the sum of the changes is how many there are.

    Triggers of the counted tables add to it (migration 0017), so that no number takes reading all rows, and no two
    writers wait for one number.
    """

    __tablename__ = "status_counts"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    counted: Mapped[str] = mapped_column(String(20))
    """`training_jobs`, `evaluations` or `models`."""
    status: Mapped[str] = mapped_column(String(20))
    """The rows' own; that of a deleted model is `DELETED`."""
    change: Mapped[int]


class IdempotencyKey(Base):
    """The first answer to a creating POST that carried an `Idempotency-Key`."""

    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(String(200), primary_key=True)
    """Method and path of the request."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_hash: Mapped[str] = mapped_column(String(64))
    resource_id: Mapped[int] = mapped_column(index=True)
    response: Mapped[dict[str, Any]]
    """The answer as first sent; an evaluation's is made from its record once that is done."""
    created_at: Mapped[datetime] = mapped_column(default=utcnow, index=True)


class ControllerLease(Base):
    """Which controller process leads: one row, renewed by the leader and taken over by another when it no longer is."""

    __tablename__ = "controller_lease"

    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    holder: Mapped[str] = mapped_column(String(300))
    """Host, process id and a random word of the process that leads."""
    term: Mapped[int] = mapped_column(default=0)
    """Grows with every change of the leader: a former one finds that its term is over."""
    renewals: Mapped[int] = mapped_column(BigInteger, default=0)
    """Grows while the leader lives. Others watch whether it does, by their own clocks: no two clocks are compared."""
    renewed_at: Mapped[datetime] = mapped_column(default=utcnow)
    """For people, and for the health check; nobody is deposed by it."""
    released: Mapped[bool] = mapped_column(default=False)
    """Whether the leader has left in order."""


class LoopState(Base):
    """How one of the controller's background loops fares, as its leader last recorded it."""

    __tablename__ = "loop_states"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    interval_seconds: Mapped[float]
    passes: Mapped[int] = mapped_column(BigInteger, default=0)
    """Passes that ended without an error since the leader began."""
    failures: Mapped[int] = mapped_column(default=0)
    """Passes in a row that have failed."""
    last_ok_at: Mapped[datetime | None]
    last_error: Mapped[str | None] = mapped_column(Text)
    last_error_at: Mapped[datetime | None]


class ServiceState(Base):
    """Whether a service of the platform answered when the controller last asked it."""

    __tablename__ = "service_states"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    status: Mapped[str] = mapped_column(String(20))
    """`starting`, `ok` or `down`."""
    reason: Mapped[str | None] = mapped_column(Text)
    latency_ms: Mapped[float | None]
    checked_at: Mapped[datetime]


class StoredKey(MadeByKey, Base):
    """An API key made while the platform runs, or one of the settings that was revoked; never the key itself."""

    __tablename__ = "api_keys"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of the key, in hex."""
    name: Mapped[str] = mapped_column(String(64))
    scope: Mapped[str] = mapped_column(String(10))
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    revoked_at: Mapped[datetime | None]
    """A revoked key keeps its row: it may still be in the settings."""
    revoked_by: Mapped[str | None] = mapped_column(String(64))


class AuditEntry(MadeByKey, Base):
    """A change that was asked for through the API: written before it is made, and finished with its answer."""

    __tablename__ = "audit_log"
    __table_args__ = (NEVER_REUSED,)

    id: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    method: Mapped[str] = mapped_column(String(10))
    path: Mapped[str] = mapped_column(Text)
    resource: Mapped[str | None] = mapped_column(String(100))
    """The id that the answer gave."""
    status: Mapped[int | None]
    """The answer's HTTP status; none while there is no answer, for good if the process ended before."""
    client: Mapped[str | None] = mapped_column(String(100))
    """Address that the request came from."""


class DiskUsage(Base):
    """How much of the disk a kind of data takes, when it was last measured."""

    __tablename__ = "disk_usage"

    kind: Mapped[str] = mapped_column(String(40), primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    measured_at: Mapped[datetime]


class RetentionPass(Base):
    """One pass of retention: what it removed."""

    __tablename__ = "retention_passes"
    __table_args__ = (NEVER_REUSED,)

    id: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime]
    removed: Mapped[int] = mapped_column(BigInteger)
    """Files, folders, rows and runs."""
    freed_bytes: Mapped[int] = mapped_column(BigInteger)
    failures: Mapped[list[str]] = mapped_column(JSON)
    """Sentences about the rules that could not be followed."""


class StoredResponse(MadeByKey, Base):
    """An answer of the Responses API, kept so that it can be read again and gone on from."""

    __tablename__ = "responses"
    __table_args__ = (NEVER_REUSED,)

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(String(64), unique=True)
    """The id that clients know."""
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    used_at: Mapped[datetime] = mapped_column(default=utcnow, index=True)
    """When it was made, or last gone on from: retention counts from then."""
    status: Mapped[str] = mapped_column(String(20))
    previous_uid: Mapped[str | None] = mapped_column(String(64))
    """The response that it goes on from; no foreign key, as that one may be deleted."""
    body: Mapped[dict[str, Any]]
    """The response as it was answered, without its output, which are items."""
    seen_at: Mapped[datetime | None]
    """When the process that works on it in the background was last seen; none of one that was waited for."""
    streamed: Mapped[bool] = mapped_column(default=False)
    """Whether its events are stored, so that they can be followed while it is answered in the background."""


class Conversation(MadeByKey, Base):
    """Items that requests add to and answer, one after another."""

    __tablename__ = "conversations"
    __table_args__ = (NEVER_REUSED,)

    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    used_at: Mapped[datetime] = mapped_column(default=utcnow, index=True)
    labels: Mapped[dict[str, Any]]
    """The client's `metadata`."""


class StoredItem(MadeByKey, Base):
    """A message, call, output of a call or thought: of a response's input or output, or of a conversation."""

    __tablename__ = "response_items"
    __table_args__ = (
        Index("ix_response_items_response_id_id", "response_id", "id"),
        Index("ix_response_items_conversation_id_id", "conversation_id", "id"),
        NEVER_REUSED,
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    """Items are in the order of their ids."""
    uid: Mapped[str] = mapped_column(String(64), index=True)
    """The id that clients know; an item may be both a response's and a conversation's."""
    response_id: Mapped[int | None] = mapped_column(ForeignKey("responses.id"))
    conversation_id: Mapped[int | None] = mapped_column(ForeignKey("conversations.id"))
    is_output: Mapped[bool] = mapped_column(default=False)
    item: Mapped[dict[str, Any]]


class StoredResponseEvents(Base):
    """Some events of a response that is streamed from the background, one after another."""

    __tablename__ = "response_events"
    __table_args__ = (Index("ix_response_events_response_id_id", "response_id", "id"), NEVER_REUSED)

    id: Mapped[int] = mapped_column(primary_key=True)
    response_id: Mapped[int] = mapped_column(ForeignKey("responses.id"))
    events: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
