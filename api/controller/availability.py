"""Keeps every model's `status` true: whether its weights can be loaded now."""

import asyncio
import logging
import threading
import time
from pathlib import Path

from configs.settings import Settings
from registry.database import Database
from registry.repositories.models import ModelRepository
from registry.weights import Availability, WeightsUnavailable, locate, obtain, probe

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 5.0
# The disk is looked at every time; the hub is somebody else's machine.
HUB_INTERVAL_SECONDS = 300.0


class AvailabilityWatch:
    """Looks for the weights of every base model named by a model, and notices those that come and go."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._fetching: set[str] = set()
        self._asked_hub: dict[str, tuple[float, Availability]] = {}
        self._lock = threading.Lock()

    async def run(self) -> None:
        """Look every few seconds for as long as the API runs."""
        while True:
            await asyncio.to_thread(self.refresh)
            await asyncio.sleep(INTERVAL_SECONDS)

    def refresh(self) -> None:
        """Record what changed since the last look."""
        with self._database.reading() as session:
            recorded = ModelRepository(session).availability()
        for base_model, (status, reason) in recorded.items():
            if base_model in self._fetching:
                continue
            found = self.check(base_model)
            if (found.status, found.reason) != (status, reason):
                self._record(base_model, found)

    def check(self, base_model: str) -> Availability:
        """Return whether the weights can be loaded now; what the hub said holds for some minutes."""
        asked_at, answer = self._asked_hub.get(base_model, (-HUB_INTERVAL_SECONDS, None))
        recent = time.monotonic() - asked_at < HUB_INTERVAL_SECONDS
        if answer is not None and recent and locate(base_model, self._settings.models_dir) is None:
            return answer
        found = probe(
            base_model, self._settings.models_dir, self._settings.allow_hub, self._settings.min_free_disk_bytes
        )
        self._asked_hub[base_model] = (time.monotonic(), found)
        return found

    def folder(self, base_model: str) -> Path | None:
        """Return where the weights lie on this machine; if they are only on the hub, start to fetch them: None."""
        folder = locate(base_model, self._settings.models_dir)
        if folder is None:
            self._fetch(base_model)
        return folder

    def _fetch(self, base_model: str) -> None:
        with self._lock:
            if base_model in self._fetching:
                return
            self._fetching.add(base_model)
        self._record(base_model, Availability("LOADING", "The weights are being fetched from the hub."))
        threading.Thread(target=self._obtain, args=(base_model,), name=f"fetch {base_model}", daemon=True).start()

    def _obtain(self, base_model: str) -> None:
        try:
            settings = self._settings
            obtain(
                base_model,
                settings.models_dir,
                settings.allow_hub,
                settings.min_free_disk_bytes,
                settings.hub_stall_seconds,
            )
        except WeightsUnavailable as error:
            logger.warning("%s", error)
            self._record(base_model, Availability("UNAVAILABLE", str(error)))
        else:
            self._record(base_model, self.check(base_model))
        finally:
            with self._lock:
                self._fetching.discard(base_model)

    def _record(self, base_model: str, found: Availability) -> None:
        with self._database.transaction() as session:
            ModelRepository(session).set_availability(base_model, found.status, found.reason, found.model_size)
