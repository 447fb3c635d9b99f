"""Checks and stores uploaded data sets, each in a process of its own: a hostile file can hurt nothing but that."""

import asyncio
from pathlib import Path
from typing import Any

from api.dataset_process import DatasetProcess
from api.errors import ServiceDown
from configs.settings import Settings
from registry.database import Database
from registry.repositories.datasets import DatasetRepository
from registry.repositories.models import ModelRepository
from registry.tables import Dataset
from registry.weights import weights_on_disk

NO_TOKENIZER = "No model's tokenizer is on this machine to check the rows with; `make model` fetches the starter model."


class Ingestion:
    """Runs one data set's checks at a time; what was accepted before a restart is checked after it."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._process = DatasetProcess(settings)
        self._one_at_a_time = asyncio.Lock()
        self._running: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Take up what was being checked when the API stopped."""
        for dataset_id in await asyncio.to_thread(self._unchecked):
            self.start(dataset_id)
        await asyncio.Event().wait()

    def upload_path(self, uid: str) -> Path:
        """Return where an uploaded file waits to be checked."""
        return self._settings.uploads_dir / uid

    def start(self, dataset_id: int) -> asyncio.Task[None]:
        """Check a data set beside the requests; the same task for the same data set."""
        if dataset_id not in self._running:
            task = asyncio.create_task(self._ingest(dataset_id))
            self._running[dataset_id] = task
            task.add_done_callback(lambda _: self._running.pop(dataset_id, None))
        return self._running[dataset_id]

    async def preview(self, dataset: Dataset, rows: int, rendered: bool, model_id: int | None) -> list[dict[str, Any]]:
        """Return the first rows, with `rendered` as the model with this id would read them."""
        tokenizer = await asyncio.to_thread(self._tokenizer, model_id or dataset.settings.get("model_id"))
        answer = await self._process.preview(
            {
                "dataset": await asyncio.to_thread(self._describe, dataset),
                "rows": rows,
                "rendered": rendered,
                "tokenizer": str(tokenizer),
            }
        )
        if not answer["ok"]:
            raise ServiceDown("datasets", answer["error"])
        found: list[dict[str, Any]] = answer["rows"]
        return found

    async def _ingest(self, dataset_id: int) -> None:
        dataset = await asyncio.to_thread(self._read, dataset_id)
        if dataset is None or dataset.status != "VALIDATING":
            return
        # Not in its turn: a hub that is slow, or silent, holds up nobody's upload.
        answer = await self._process.fetch(dataset)
        if answer["ok"]:
            async with self._one_at_a_time:
                answer = await self._check(dataset)
        await asyncio.to_thread(self._record, dataset_id, answer)
        self.upload_path(dataset.uid).unlink(missing_ok=True)

    async def _check(self, dataset: Dataset) -> dict[str, Any]:
        try:
            tokenizer = await asyncio.to_thread(self._tokenizer, dataset.settings.get("model_id"))
            described = await asyncio.to_thread(self._describe, dataset)
            return await self._process.ingest({"dataset": described, "tokenizer": str(tokenizer)})
        except ServiceDown as error:
            return {"ok": False, "error": error.message, "report": None}

    def _tokenizer(self, model_id: int | None) -> Path:
        """Return the folder of the tokenizer to check with; `ServiceDown` if there is none on this machine."""
        with self._database.reading() as session:
            models = ModelRepository(session)
            wanted = [models.get(model_id)] if model_id is not None else models.list()
        for model in wanted:
            if model is None or model.status != "AVAILABLE":
                continue
            if model.adapter is not None:
                return self._settings.adapters_dir / model.adapter
            folder = weights_on_disk(model, self._settings)
            if folder is not None:
                return folder
        raise ServiceDown("datasets", NO_TOKENIZER)

    def _unchecked(self) -> list[int]:
        with self._database.reading() as session:
            return [dataset.id for dataset in DatasetRepository(session).unchecked()]

    def _describe(self, dataset: Dataset) -> dict[str, Any]:
        """Return what the child needs to know: it reads no database."""
        settings = dict(dataset.settings)
        if (own := settings.get("held_out_dataset_id")) is not None:
            held_out = self._read(own)
            if held_out is None:
                raise ServiceDown("datasets", f"Data set {own}, which holds the held-out rows, has been deleted.")
            settings["held_out_content"] = {"source": held_out.source, "content_hash": held_out.content_hash}
        return {
            "uid": dataset.uid,
            "source": dataset.source,
            "content_hash": dataset.content_hash,
            "settings": settings,
        }

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
