"""From a model's record to how a request to the engine names it: its weights' folder, and its adapter's."""

from pathlib import Path
from typing import Any

from api.engine_server.schemas import EngineGenerateRequest
from api.errors import Conflict, ServiceDown
from configs.settings import Settings
from registry.database import Database
from registry.repositories.models import ModelRepository
from registry.tables import Model
from registry.weights import way_to_obtain, weights_on_disk


def require_loadable(model: Model) -> None:
    """Raise `Conflict` if the model's weights can't be loaded now."""
    if model.status == "UNAVAILABLE":
        raise Conflict(f"Model {model.id} ({model.name}) is UNAVAILABLE: {model.status_reason}")


class ModelInputs:
    """Names models to the engine."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    def fields(self, model: Model, adapter: Path | None = None) -> dict[str, Any]:
        """Return the fields of `EngineInput` that name the model.

        `adapter` is a folder with a checkpoint's adapter, to answer in the place of the model's own.
        Raises `Conflict` if the weights can't be loaded, and `ServiceDown` while they are being fetched.
        """
        require_loadable(model)
        folder = self._weights_folder(model)
        if folder is None:
            way = way_to_obtain(model.base_model, self._settings.models_dir)
            message = f"The weights of {model.base_model} are {way}; try again in a while."
            raise ServiceDown("weights", message, retry_after=30)
        if adapter is None and model.adapter is not None:
            adapter = self._settings.adapters_dir / model.adapter
        return {
            "model": model.weights or model.base_model,
            "weights": str(folder),
            "adapter": str(adapter) if adapter is not None else None,
            "chat_format": model.chat_format,
        }

    def request(self, model: Model, adapter: Path | None = None, **settings: Any) -> EngineGenerateRequest:
        """Return what the engine is asked for this model, with settings of `EngineGenerateRequest`; as `fields`."""
        return EngineGenerateRequest(**self.fields(model, adapter), **settings)

    def _weights_folder(self, model: Model) -> Path | None:
        """Return where the weights lie; if they are only on the hub, ask the controller to fetch them: None."""
        folder = weights_on_disk(model, self._settings)
        if folder is None:
            with self._database.transaction() as session:
                ModelRepository(session).request_fetch(model.base_model)
        return folder
