"""Settings of the platform: the only module that reads the environment.

Every field can be set as `LLM_PLATFORM_<FIELD>`, for example `LLM_PLATFORM_API_PORT=8000`.
"""

import re
import ssl
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import Field, FilePath, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from configs.keys import ApiKey, parse_keys

KEPT_FOR_DAYS = (
    "keep_checkpoints_days",
    "keep_stopped_checkpoints_days",
    "keep_step_events_days",
    "keep_idempotency_days",
    "keep_audit_days",
    "keep_deliveries_days",
    "keep_responses_days",
    "keep_flow_runs_days",
    "keep_deleted_days",
    "keep_orphans_days",
    "keep_caches_days",
    "keep_snapshots_days",
)
"""Settings that say how long something is kept; none: for ever."""
ComputeDtype = Literal["auto", "float32", "bfloat16"]
Port = int
KEEP_ALIVE_SECONDS = 75
"""How long our servers keep idle connections: longer than clients do (httpx, and with it OpenAI's SDK: 5 s), whose
request may meet its end else."""
IDLE_CONNECTION_SECONDS = 60.0
"""How long our own clients keep theirs: what asks every few seconds does not connect each time."""
SERVICES_USER = "platform"
ORIGIN = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


class Settings(BaseSettings):
    """Where the platform listens, keeps its data, and computes."""

    model_config = SettingsConfigDict(env_prefix="LLM_PLATFORM_", extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    """Address the API binds to; beyond loopback only with `api_keys`, or `force_open`."""
    api_keys: str | None = Field(None, repr=False)
    """Keys one of which every request must carry, as `NAME:SCOPE:SHA256,…` (`llm-platform keys new`); none: no keys."""
    services_secret: str | None = Field(None, min_length=32, repr=False)
    """What the platform's processes show Prefect and MLflow where there are keys; `up` makes one at every start."""
    force_open: bool = False
    """Whether what asks for no key may be bound beyond loopback: Prefect's and MLflow's pages, an API without keys."""
    api_port: Port = Field(5000, ge=1, le=65535)
    api_workers: int = Field(1, ge=1, le=64)
    """Processes that serve the API beside each other."""
    mlflow_port: Port = Field(5001, ge=1, le=65535)
    engine_port: Port = Field(5002, ge=1, le=65535)
    """The inference engine's own process; loopback only, spoken to by the API alone."""
    prefect_port: Port = Field(4200, ge=1, le=65535)
    allowed_hosts: list[str] = ["localhost", "127.0.0.1", "::1"]
    """Host names a request may carry (a JSON list in the environment); others are refused (DNS rebinding)."""
    allowed_origins: list[str] = []
    """Origins (`https://app.example`, a JSON list in the environment) whose pages may use the API; others may not."""

    data_dir: Path = Path("data")
    """Everything the platform writes: databases, checkpoints, adapters, logs."""
    min_free_disk_gb: float = Field(2.0, ge=0)
    """Free space (10^9 bytes) of the data folder's disk below which no new work is accepted; what runs goes on."""
    local_models_dir: Path | None = None
    """Local base models, one folder each (`NAME` or `ORG/NAME`); default `<data_dir>/models`."""
    database_url: str | None = None
    """SQLAlchemy URL of the platform's tables; default SQLite in the data folder. PostgreSQL: `postgresql+psycopg://…`."""
    mlflow_database_url: str | None = None
    """SQLAlchemy URL of MLflow's store; default SQLite in the data folder."""
    prefect_database_url: str | None = None
    """Async SQLAlchemy URL of Prefect's store (`postgresql+asyncpg://…`); default SQLite in the data folder."""
    postgresql_tools_dir: Path | None = None
    """Folder of PostgreSQL's `pg_dump` and `pg_restore`, no older than the server; default those on the PATH."""
    upgrade_snapshot: Literal["auto", "required", "off"] = "auto"
    """Copy of a database before its schema is upgraded; `auto` goes on without one where `pg_dump` is missing."""

    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    compute_dtype: ComputeDtype = "auto"
    """Precision of the model's weights and products; `auto` is bfloat16 where the chip computes it natively."""
    allow_hub: bool = True
    """Whether weights that are neither in the models folder nor in the cache may be fetched from the hub."""

    max_request_bytes: int = Field(2 * 1024 * 1024, ge=1024)
    """Largest JSON request body; more is a 413."""
    max_upload_bytes: int = Field(4 * 1024**3, ge=1024)
    """Largest uploaded data set; more is a 413."""
    upload_wait_seconds: float = Field(60.0, ge=0)
    """How long an upload waits for its rows to be checked before it answers 202."""
    previews_at_once: int = Field(2, ge=1)
    """Processes that read data sets for previews at once; further previews wait for one of them."""
    preview_queue_length: int = Field(16, ge=0)
    """Previews that wait; one more is refused with 429."""
    preview_timeout_seconds: float = Field(60.0, gt=0)
    """How long a preview may wait for a process, and how long that may take."""
    ingest_timeout_seconds: float = Field(14_400.0, gt=0)
    """How long the checks of a data set's rows may take."""
    hub_stall_seconds: float = Field(120.0, gt=0)
    """How long nothing may come of a download from the hub before it is given up."""
    evaluation_wait_seconds: float = Field(3600.0, ge=0)
    """How long `/evaluate` waits for the numbers before it answers 202."""
    ingest_memory_gb: float = Field(4.0, gt=0)
    """Most memory that each process reading an uploaded file may take; a file that needs more is refused."""
    ingest_processes: int = Field(2, ge=1)
    """Processes that look at the rows of a large upload, beside the one that stores them; never more than cores."""
    engine_memory_budget_gb: float = Field(4.0, gt=0)
    """Memory of the inference engine for weights and caches; the least recently used model is evicted beyond it."""
    engine_kv_cache_gb: float = Field(1.0, gt=0)
    """Most memory per model for keys and values of its running sequences (of what the budget leaves, half at most)."""
    engine_int8: bool = False
    """Whether the engine packs weights into eight bits (Llama family, CPU): faster and smaller, a little less exact."""
    engine_concurrency: int = Field(32, ge=1)
    """Sequences decoded at once per model; further requests wait in line."""
    engine_queue_length: int = Field(256, ge=1)
    """Requests waiting for a place per model; one more is refused with 429."""
    backend_url: str | None = None
    """An OpenAI-compatible server in the engine's place, such as vLLM: `http://gpu:8000/v1`; default none."""
    backend_api_key: str | None = Field(None, repr=False)
    generation_timeout_seconds: float = Field(600.0, gt=0)
    """How long a request for text may wait and run; one that takes longer ends with 503."""
    generation_max_answers: int = Field(1024, ge=1)
    """Answers that one request may ask for: its prompts times `n`."""
    generation_max_tokens: int = Field(4_194_304, ge=1)
    """Tokens that one request may ask for: its prompts times `n` times the most tokens of each answer."""
    generation_connections: int = Field(512, ge=1)
    """Answers that the engine is asked for at once, each over a connection of its own; further ones wait."""
    generation_queue_length: int = Field(4096, ge=1)
    """Answers waiting for such a place; a request for more is refused with 429."""
    generation_answers_per_key: int | None = Field(None, ge=1)
    """Answers that each key's requests may have running and waiting in one API process; default no limit of its own."""
    pause_wait_seconds: float = Field(60.0, ge=0)
    """How long `/pause` waits for the trainer to leave before it answers 202."""
    checkpoint_interval_seconds: float = Field(60.0, gt=0)
    training_memory_gb: float | None = Field(None, gt=0)
    """Memory that a training job may take; default what the device, for a CPU the machine, has free."""

    keep_checkpoints_days: float | None = Field(7.0, ge=0)
    """How long a completed job's other checkpoints stay beside the registered one; 0: until the next pass. Of every
    `keep_*` setting: none (`null` in the environment) keeps for ever."""
    keep_stopped_checkpoints_days: float | None = Field(None, ge=0)
    """How long a failed or cancelled job's checkpoints stay; a job without them restarts from its first step."""
    keep_step_events_days: float | None = Field(None, ge=0)
    """How long an ended job's events of kind `step` and `evaluation` stay, which results files are made of."""
    keep_idempotency_days: float | None = Field(30.0, ge=0)
    """How long an `Idempotency-Key` is remembered."""
    keep_audit_days: float | None = Field(365.0, ge=0)
    """How long entries of the audit log stay."""
    keep_deliveries_days: float | None = Field(30.0, ge=0)
    """How long webhook messages stay that were delivered or given up."""
    keep_responses_days: float | None = Field(30.0, ge=0)
    """How long stored responses and conversations stay that no request goes on from."""
    keep_flow_runs_days: float | None = Field(30.0, ge=0)
    """How long ended flow runs stay in Prefect, with their logs; those that a job can be restarted by stay anyway."""
    keep_deleted_days: float | None = Field(7.0, ge=0)
    """How long what was deleted stays in MLflow, where it can be restored: runs, and versions of deleted models. Then
    the records of deleted models and data sets go too that nothing refers to any more."""
    keep_orphans_days: float | None = Field(1.0, ge=0)
    """How long files stay that no record refers to: broken-off uploads, unfinished folders, temporary files."""
    keep_caches_days: float | None = Field(30.0, ge=0)
    """How long tokens and compiled kernels stay that nobody has read; they are made again when they are needed."""
    keep_snapshots_days: float | None = Field(30.0, ge=0)
    """How long snapshots of databases stay; the newest three stay anyway."""
    retention_hour: int = Field(3, ge=0, le=23)
    """Hour of the day, by this machine's clock, after which the nightly pass of retention runs."""

    webhook_allow_internal: bool = False
    """Whether webhooks may be sent to addresses that are not public: this machine, its network, a cloud's metadata."""
    webhook_ca_file: FilePath | None = None
    """Certificates (PEM) of authorities that webhook targets may have theirs from, beside the public ones."""
    webhook_timeout_seconds: float = Field(10.0, gt=0, le=60)
    """How long a webhook's target may take to answer, its name's look-up included."""
    webhook_retry_seconds: float = Field(5.0, gt=0)
    """Time from a webhook's first attempt to its second; then about twice as long each time, six hours at most."""
    webhook_attempts: int = Field(24, ge=1, le=100)
    """How often a webhook is sent until it is given up; the default takes about three days."""

    @field_validator(*KEPT_FOR_DAYS, mode="before")
    @classmethod
    def _null_keeps_for_ever(cls, value: object) -> object:
        """The environment has texts only, and no word for None."""
        return None if value == "null" else value

    @field_validator("api_keys")
    @classmethod
    def _parsable(cls, text: str | None) -> str | None:
        """A variable that is empty by mistake must not open the endpoints: only one that is unset does."""
        if text is not None:
            parse_keys(text)
        return text

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, origins: list[str]) -> list[str]:
        """One by one: `*` would let in every page that a person on this machine opens."""
        for origin in origins:
            if not ORIGIN.fullmatch(origin):
                message = (
                    f"{origin!r} is no origin: a scheme, a host and perhaps a port, such as https://app.example:8443"
                )
                raise ValueError(message)
        return [origin.lower() for origin in origins]

    @field_validator("data_dir", "local_models_dir", "postgresql_tools_dir", "webhook_ca_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        """Paths are handed to processes with other working directories."""
        return path.expanduser().resolve() if path is not None else None

    @field_validator("webhook_ca_file")
    @classmethod
    def _holds_certificates(cls, path: Path | None) -> Path | None:
        if path is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
            except ssl.SSLError as error:
                message = "Input should be a file with certificates in PEM format"
                raise PydanticCustomError("certificates", message) from error
        return path

    @property
    def training_memory_bytes(self) -> int | None:
        """Memory that a training job may take; none: what is free."""
        return None if self.training_memory_gb is None else int(self.training_memory_gb * 1e9)

    @property
    def min_free_disk_bytes(self) -> int:
        """Disk that is kept free, in bytes."""
        return int(self.min_free_disk_gb * 1e9)

    @property
    def models_dir(self) -> Path:
        """Folder of local base models."""
        return self.local_models_dir or self.data_dir / "models"

    @property
    def adapters_dir(self) -> Path:
        """Folder of trained adapters, one immutable folder per model."""
        return self.data_dir / "adapters"

    @property
    def weights_dir(self) -> Path:
        """Folder of models that were trained as a whole, one immutable folder per model."""
        return self.data_dir / "weights"

    @property
    def jobs_dir(self) -> Path:
        """Working folders of training jobs: checkpoints, step trace, lock."""
        return self.data_dir / "jobs"

    @property
    def datasets_dir(self) -> Path:
        """Data sets: rows by content hash, their tokens, and uploads on their way to be checked."""
        return self.data_dir / "datasets"

    @property
    def uploads_dir(self) -> Path:
        """Uploaded files that wait to be checked, by their data set's uid."""
        return self.datasets_dir / "uploads"

    @property
    def local_datasets_dir(self) -> Path:
        """Files that a data set can be made of by naming them."""
        return self.data_dir / "local-datasets"

    @property
    def evaluations_dir(self) -> Path:
        """Samples of evaluations: one file each, named by the evaluation's uid."""
        return self.data_dir / "evaluations"

    @property
    def benchmarks_dir(self) -> Path:
        """lm-eval task files (`*.yaml`) and their data; Python that they name is run, as the operator's own."""
        return self.data_dir / "benchmarks"

    @property
    def logs_dir(self) -> Path:
        """Log files of every part."""
        return self.data_dir / "logs"

    @property
    def snapshots_dir(self) -> Path:
        """Copies of databases, made before they were changed."""
        return self.data_dir / "snapshots"

    @property
    def mlflow_artifacts_dir(self) -> Path:
        """Files of MLflow's runs and models."""
        return self.data_dir / "mlartifacts"

    @property
    def platform_database_url(self) -> str:
        """SQLAlchemy URL of the platform's tables."""
        return self.database_url or f"sqlite:///{self.data_dir / 'platform.db'}"

    @property
    def mlflow_store_url(self) -> str:
        """SQLAlchemy URL of MLflow's store."""
        return self.mlflow_database_url or f"sqlite:///{self.data_dir / 'mlflow.db'}"

    @property
    def known_keys(self) -> tuple[ApiKey, ...]:
        """The keys that open the API; none: it asks for no key."""
        return () if self.api_keys is None else parse_keys(self.api_keys)

    @property
    def services_login(self) -> tuple[str, str] | None:
        """User name and password by which the platform's processes use Prefect and MLflow; none: they ask for none."""
        return None if self.services_secret is None else (SERVICES_USER, self.services_secret)

    @property
    def lacks_services_secret(self) -> str | None:
        """Why Prefect and MLflow can't be started alone: without a secret they would be open, in spite of the keys."""
        if self.api_keys is None or self.services_secret is not None:
            return None
        return "with LLM_PLATFORM_API_KEYS, LLM_PLATFORM_SERVICES_SECRET is needed; `llm-platform up` makes one."

    @property
    def served_hosts(self) -> list[str]:
        """Host names by which Prefect and MLflow may be asked: those of the API, and what this machine itself uses."""
        return list(dict.fromkeys([*self.allowed_hosts, self.keyless_connect_host]))

    @property
    def loopback(self) -> bool:
        """Whether `host` is reached from this machine alone."""
        try:
            return self.host == "localhost" or ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def keyless_host(self) -> str:
        """Address MLflow and Prefect bind to, whose endpoints know no keys."""
        return self.host if self.loopback or self.force_open else "127.0.0.1"

    @property
    def connect_host(self) -> str:
        """Host at which this machine reaches its own API."""
        return _connectable(self.host)

    @property
    def keyless_connect_host(self) -> str:
        """Host at which this machine reaches its own MLflow and Prefect."""
        return _connectable(self.keyless_host)

    @property
    def prefect_api_url(self) -> str:
        """Base URL of Prefect's REST API."""
        return f"http://{self.keyless_connect_host}:{self.prefect_port}/api"

    @property
    def mlflow_url(self) -> str:
        """Base URL of the MLflow server."""
        return f"http://{self.keyless_connect_host}:{self.mlflow_port}"

    @property
    def engine_url(self) -> str:
        """Base URL of the inference engine."""
        return f"http://127.0.0.1:{self.engine_port}"


def _connectable(host: str) -> str:
    """A wildcard address can be bound, but not connected to."""
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound


@lru_cache
def get_settings() -> Settings:
    """Return the process's settings, read from the environment once."""
    return Settings()
