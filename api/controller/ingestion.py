"""Checks and stores the data sets that wait for it, one at a time."""

import asyncio
from typing import Any

from api.controller.background import Background, raise_all
from api.dataset_checks import DatasetChecks
from api.errors import ServiceDown
from configs.settings import Settings
from registry.database import Database
from registry.repositories.datasets import DatasetRepository
from registry.tables import Dataset

FAILED = "The platform failed to check it; its log (controller.log) says why. Upload it again."


class Ingestion:
    """What was accepted before a restart is checked after it."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._questions = DatasetChecks(settings, database)
        self._one_at_a_time = asyncio.Lock()
        self._checks = Background[int]()

    async def run_pass(self) -> None:
        """Begin to check what waits, beside this; raises what has kept data sets from being checked."""
        errors = self._checks.collect()
        for dataset_id in await asyncio.to_thread(self._unchecked):
            if dataset_id not in self._checks.keys:
                self._checks.start(dataset_id, self._ingest(dataset_id))
        raise_all(errors, "data sets")

    async def close(self) -> None:
        """End the checks that run; they begin anew with the next controller."""
        await self._checks.close()

    async def _ingest(self, dataset_id: int) -> None:
        dataset = await asyncio.to_thread(self._read, dataset_id)
        if dataset is None or dataset.status != "VALIDATING":
            return
        try:
            answer = await self._answer(dataset)
        except ServiceDown as error:
            answer = {"ok": False, "error": error.message, "report": None}
        except Exception:
            # Not tried again and again: who uploaded it is told, and the loop raises why.
            await asyncio.to_thread(self._record, dataset_id, {"ok": False, "error": FAILED, "report": None})
            raise
        await asyncio.to_thread(self._record, dataset_id, answer)
        (self._settings.uploads_dir / dataset.uid).unlink(missing_ok=True)

    async def _answer(self, dataset: Dataset) -> dict[str, Any]:
        # Not in its turn: a hub that is slow, or silent, holds up nobody's upload.
        answer = await self._questions.fetch(dataset)
        if answer["ok"]:
            async with self._one_at_a_time:
                answer = await self._questions.check(dataset)
        return answer

    def _unchecked(self) -> list[int]:
        with self._database.reading() as session:
            return [dataset.id for dataset in DatasetRepository(session).unchecked()]

    def _read(self, dataset_id: int) -> Dataset | None:
        with self._database.reading() as session:
            return DatasetRepository(session).get(dataset_id)

    def _record(self, dataset_id: int, answer: dict[str, Any]) -> None:
        with self._database.transaction() as session:
            dataset = DatasetRepository(session).get(dataset_id)
            if dataset is None:
                return
            dataset.report = answer.get("report")
            if answer["ok"]:
                dataset.status, dataset.rows, dataset.content_hash = "READY", answer["rows"], answer["content_hash"]
            else:
                dataset.status, dataset.error = "INVALID", answer["error"]
