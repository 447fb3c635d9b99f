"""What was deleted in MLflow, or belongs to records that were: looked for and removed in a child process."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import make_url

from registry.clock import utcnow
from registry.repositories.retention import RetentionRepository
from tasks.retention import deleted_rows
from tasks.retention.rule import Context, Found

COMMAND = (sys.executable, "-m", "registry.mlflow_cleanup")
TIMEOUT_SECONDS = 3600.0


class CleanupFailed(Exception):
    """The child process ended without an answer; the message has the end of what it said."""


class Answer(BaseModel):
    """As `registry.mlflow_cleanup.CleanupAnswer`, which brings MLflow."""

    model_config = ConfigDict(extra="ignore")

    deleted_runs: int
    versions: int
    runs: int
    models: int
    removed_versions: int
    freed_bytes: int
    registered_runs: list[str]

    def __str__(self) -> str:
        return (
            f"MLflow: {self.deleted_runs} runs of deleted jobs and evaluations, {self.versions} versions of deleted "
            f"models; for good {self.runs} deleted runs, {self.models} deleted logged models, "
            f"{self.removed_versions} deleted versions"
        )

    @property
    def count(self) -> int:
        """How many of all of them."""
        return self.deleted_runs + self.versions + self.runs + self.models + self.removed_versions


def deleted(context: Context, before: datetime) -> Iterator[Found]:
    """Yield the records of deleted models, and, as one, what MLflow has of deleted records or was deleted there.

    In this order: a record goes with the pass after the one that removes its version from MLflow. Raises
    `CleanupFailed`.
    """
    answer = _ask(context, before, dry_run=True) if _store_exists(context) else None
    yield from deleted_rows.models(context, before, frozenset(answer.registered_runs) if answer is not None else ())
    if answer is not None and answer.count:
        yield Found(
            str(answer), answer.freed_bytes, lambda: _ask(context, before, dry_run=False).count > 0, answer.count
        )


def _store_exists(context: Context) -> bool:
    url = make_url(context.settings.mlflow_store_url)
    return url.get_backend_name() != "sqlite" or Path(str(url.database)).is_file()


def _ask(context: Context, before: datetime, *, dry_run: bool) -> Answer:
    with context.database.reading() as session:
        retention = RetentionRepository(session)
        request: dict[str, Any] = {
            "uids": [*retention.job_uids(), *retention.evaluation_uids()],
            "runs": list(retention.mlflow_runs_in_use()),
            "versions": retention.versions_of_deleted_models(before),
        }
    child = _Request(
        store=context.settings.mlflow_store_url,
        artifacts=context.settings.mlflow_artifacts_dir,
        older_than_seconds=(utcnow() - before).total_seconds(),
        dry_run=dry_run,
        **request,
    )
    done = subprocess.run(
        COMMAND, input=child.model_dump_json(), capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    if done.returncode != 0:
        raise CleanupFailed(f"removing from MLflow ended with {done.returncode}: {_last_line(done.stderr)}")
    return Answer.model_validate_json(done.stdout)


class _Request(BaseModel):
    store: str
    artifacts: Path
    older_than_seconds: float
    uids: list[str]
    runs: list[str]
    versions: list[tuple[str, str]]
    dry_run: bool


def _last_line(text: str) -> str:
    """Return the line of a traceback that names the error; SQLAlchemy's are followed by an address."""
    lines = [line for line in text.strip().splitlines() if line and not line.startswith(("(Background", "[SQL"))]
    return lines[-1][:300] if lines else "it said nothing"
