"""Reads data sets' files in processes of their own: a hostile file can hurt nothing but that."""

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

from api.errors import ServiceDown
from configs.settings import Settings
from registry.database import Database
from registry.repositories.datasets import DatasetRepository
from registry.repositories.models import ModelRepository
from registry.tables import Dataset
from registry.weights import weights_on_disk

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "tasks.data.ingest")
NO_TOKENIZER = "No model's tokenizer is on this machine to check the rows with; `make model` fetches the starter model."


class DatasetProcess:
    """Starts a process for each question about a data set; both raise `ServiceDown` where none can be answered."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    async def check(self, dataset: Dataset) -> dict[str, Any]:
        """Check every row and store them; return what was found: `ok`, and `rows`, `content_hash` or `error`."""
        tokenizer = await asyncio.to_thread(self._tokenizer, dataset.settings.get("model_id"))
        described = await asyncio.to_thread(self._describe, dataset)
        return await self._ask({"action": "ingest", "dataset": described, "tokenizer": str(tokenizer)})

    async def preview(self, dataset: Dataset, rows: int, rendered: bool, model_id: int | None) -> list[dict[str, Any]]:
        """Return the first rows, with `rendered` as the model with this id would read them."""
        tokenizer = await asyncio.to_thread(self._tokenizer, model_id or dataset.settings.get("model_id"))
        answer = await self._ask(
            {
                "action": "preview",
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

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the child's answer; a child that dies is an answer too."""
        request |= {"settings": self._settings.model_dump(mode="json")}
        process = await asyncio.create_subprocess_exec(
            *COMMAND, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            output, _ = await process.communicate(json.dumps(request).encode())
        except asyncio.CancelledError:
            process.kill()
            raise
        if process.returncode != 0 or not output:
            logger.error("tasks.data.ingest ended with %s", process.returncode)
            limit = self._settings.ingest_memory_gb
            reason = f"Its rows could not be read within {limit:g} GB of memory (LLM_PLATFORM_INGEST_MEMORY_GB)."
            return {"ok": False, "error": reason, "report": None}
        answer: dict[str, Any] = json.loads(output)
        return answer

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

    def _describe(self, dataset: Dataset) -> dict[str, Any]:
        """Return what the child needs to know: it reads no database."""
        settings = dict(dataset.settings)
        if (own := settings.get("held_out_dataset_id")) is not None:
            with self._database.reading() as session:
                held_out = DatasetRepository(session).get(own)
            if held_out is None:
                raise ServiceDown("datasets", f"Data set {own}, which holds the held-out rows, has been deleted.")
            settings["held_out_content"] = {"source": held_out.source, "content_hash": held_out.content_hash}
        return {
            "uid": dataset.uid,
            "source": dataset.source,
            "content_hash": dataset.content_hash,
            "settings": settings,
        }
