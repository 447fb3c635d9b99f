"""Shows in MLflow the status that jobs and evaluations have here: the only writer of an MLflow run's status."""

import asyncio
import logging
from datetime import UTC, datetime

import httpx

from configs.settings import Settings
from registry.database import Database
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.run_states import MLFLOW_STATUS
from registry.tables import Evaluation, TrainingJob

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0
STATUS_TAG = "job_status"

Repository = TrainingJobRepository | EvaluationRepository
KINDS: tuple[type[Repository], ...] = (TrainingJobRepository, EvaluationRepository)


class MlflowSync:
    """Reports every new status to MLflow; what MLflow did not take is reported again until it does."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._http = httpx.AsyncClient(
            base_url=f"{settings.mlflow_url}/api/2.0/mlflow",
            auth=settings.services_login,
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def run_pass(self) -> None:
        """Report what is new; `httpx.HTTPError` when MLflow does not answer."""
        for kind in KINDS:
            for record in await asyncio.to_thread(self._pending, kind):
                await self._show(record)
                await asyncio.to_thread(self._mark_synced, kind, record.id, record.status)

    async def _show(self, record: TrainingJob | Evaluation) -> None:
        update: dict[str, str | int] = {
            "run_id": str(record.mlflow_run_id),
            "status": MLFLOW_STATUS[record.status],
        }
        if record.completed_at is not None:
            update["end_time"] = _milliseconds(record.completed_at)
        tag = {"run_id": str(record.mlflow_run_id), "key": STATUS_TAG, "value": record.status}
        for path, body in (("/runs/update", update), ("/runs/set-tag", tag)):
            response = await self._http.post(path, json=body)
            if response.is_server_error:
                response.raise_for_status()
            if response.is_client_error:
                # A person has deleted the run in MLflow's UI: there is nothing to show the status on.
                logger.warning("MLflow run %s takes no status: %s", record.mlflow_run_id, response.text[:200])
                return

    def _pending(self, kind: type[Repository]) -> list[TrainingJob | Evaluation]:
        with self._database.reading() as session:
            return list(kind(session).pending_mlflow_sync())

    def _mark_synced(self, kind: type[Repository], record_id: int, status: str) -> None:
        with self._database.transaction() as session:
            kind(session).mark_synced(record_id, status)


def _milliseconds(moment: datetime) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp() * 1000)
