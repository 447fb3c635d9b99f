"""What is asked of a data set's rows: whether they can be used, and how the first ones look."""

import asyncio
from pathlib import Path
from typing import Any

from api.dataset_process import Answer, DatasetProcess
from api.errors import Invalid, ServiceDown
from configs.chat_format import ChatFormat
from configs.settings import Settings
from registry.database import Database
from registry.repositories.datasets import DatasetRepository
from registry.repositories.models import ModelRepository
from registry.tables import Dataset
from registry.weights import locate, weights_on_disk

NO_TOKENIZER = "No model's tokenizer is on this machine to check the rows with; `make model` fetches the starter model."


class DatasetChecks:
    """Asks processes of their own, which read no database: what they need of it is found here."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._process = DatasetProcess(settings)

    async def fetch(self, dataset: Dataset) -> Answer:
        """Bring a data set of the hub, if it is one, to where an upload would lie; not `ok` if that fails."""
        return await self._process.fetch(dataset)

    async def check(self, dataset: Dataset) -> Answer:
        """Check every row and store them; return what was found: `ok`, and `rows`, `content_hash` or `error`.

        Raises `ServiceDown` if there is nothing to check with, or if it takes too long.
        """
        model_id, chosen = dataset.settings.get("model_id"), ChatFormat.among(dataset.settings)
        reader = await asyncio.to_thread(self._reader, model_id, chosen)
        described = await asyncio.to_thread(self._describe, dataset)
        return await self._process.ingest({"dataset": described, **reader})

    async def preview(
        self, dataset: Dataset, rows: int, rendered: bool, model_id: int | None, chosen: ChatFormat
    ) -> list[dict[str, Any]]:
        """Return the first rows, with `rendered` as the model with this id would read them, in this format.

        Without either as they were checked. Raises `Invalid` for a format that the model can't have, `Busy` where too
        many wait, and `ServiceDown` as `check`.
        """
        if model_id is None and chosen.is_own:
            chosen = ChatFormat.among(dataset.settings)
        reader = await asyncio.to_thread(self._reader, model_id or dataset.settings.get("model_id"), chosen)
        described = await asyncio.to_thread(self._describe, dataset)
        answer = await self._process.preview({"dataset": described, "rows": rows, "rendered": rendered, **reader})
        if not answer["ok"]:
            raise ServiceDown("datasets", answer["error"])
        found: list[dict[str, Any]] = answer["rows"]
        return found

    async def require_format(self, model_id: int, chosen: ChatFormat) -> None:
        """Raise `Invalid` if the model can't have this chat format, or no conversation can be learned in it.

        Nothing is said of a model that is not on this machine: the trainer sees it. Raises `Busy` where too many wait.
        """
        if chosen.is_own:
            return
        try:
            reader = await asyncio.to_thread(self._reader, model_id, chosen)
        except ServiceDown:
            return
        await self._require(reader)

    async def require_format_of_base(self, base_model: str, chosen: ChatFormat) -> None:
        """Raise what `require_format` raises, for a base model that is to be added."""
        folder = await asyncio.to_thread(locate, base_model, self._settings.models_dir)
        if not chosen.is_own and folder is not None:
            await self._require({"tokenizer": str(folder), "chat_formats": [chosen.model_dump()]})

    async def _require(self, reader: dict[str, Any]) -> None:
        answer = await self._process.check_format(reader)
        if not answer["ok"]:
            raise Invalid(f"{answer['error']}.")

    def _reader(self, model_id: int | None, chosen: ChatFormat) -> dict[str, Any]:
        """Return what rows are read with: a tokenizer and its chat formats, of which a later one is put on the others.

        `ServiceDown` if there is none on this machine.
        """
        with self._database.reading() as session:
            models = ModelRepository(session)
            wanted = [models.get(model_id)] if model_id is not None else models.list()
        for model in wanted:
            if model is None or model.status != "AVAILABLE":
                continue
            if model.adapter is not None:
                folder: Path | None = self._settings.adapters_dir / model.adapter
            else:
                folder = weights_on_disk(model, self._settings)
            if folder is not None:
                formats = [model.chat_format] if model.chat_format else []
                return {"tokenizer": str(folder), "chat_formats": [*formats, chosen.model_dump()]}
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
