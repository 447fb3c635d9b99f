"""Keeps every model's `status` true: whether its weights can be loaded now; fetches weights that a request needs."""

import asyncio
import logging
import threading
import time

from configs.settings import Settings
from registry.database import Database
from registry.repositories.models import ModelRepository
from registry.weights import Availability, WeightsUnavailable, locate, obtain, probe, way_to_obtain

logger = logging.getLogger(__name__)

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

    async def run_pass(self) -> None:
        """Record what changed since the last pass, and begin to fetch what requests wait for."""
        await asyncio.to_thread(self.refresh)

    def refresh(self) -> None:
        """Make one pass."""
        with self._database.reading() as session:
            models = ModelRepository(session)
            recorded, wanted = models.availability(), models.wanted_from_hub()
        for base_model in wanted:
            self._fetch(base_model)
        for base_model, (status, reason) in recorded.items():
            if base_model in self._fetching:
                continue
            found = self._check(base_model)
            if (found.status, found.reason) != (status, reason):
                self._record(base_model, found)

    def _check(self, base_model: str) -> Availability:
        """Return whether the weights can be loaded now; what the hub said holds for some minutes."""
        on_disk = locate(base_model, self._settings.models_dir) is not None
        asked_at, answer = self._asked_hub.get(base_model, (-HUB_INTERVAL_SECONDS, None))
        if not on_disk and answer is not None and time.monotonic() - asked_at < HUB_INTERVAL_SECONDS:
            return answer
        try:
            found = probe(
                base_model, self._settings.models_dir, self._settings.allow_hub, self._settings.min_free_disk_bytes
            )
        except Exception as error:
            # One model's damaged files say nothing of the others.
            logger.exception("the files of %s can't be read", base_model)
            found = Availability("UNAVAILABLE", f"The files of {base_model} can't be read: {error}")
        if not on_disk:
            self._asked_hub[base_model] = (time.monotonic(), found)
        return found

    def _fetch(self, base_model: str) -> None:
        with self._lock:
            if base_model in self._fetching:
                return
            self._fetching.add(base_model)
        way = way_to_obtain(base_model, self._settings.models_dir)
        self._record(base_model, Availability("LOADING", f"The weights are {way}."))
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
            found = Availability("UNAVAILABLE", str(error))
        else:
            found = self._check(base_model)
        try:
            self._record(base_model, found, fetched=True)
        finally:
            # What could not be recorded is tried again by the next pass.
            with self._lock:
                self._fetching.discard(base_model)

    def _record(self, base_model: str, found: Availability, *, fetched: bool = False) -> None:
        with self._database.transaction() as session:
            models = ModelRepository(session)
            models.set_availability(base_model, found.status, found.reason, found.model_size)
            if fetched:
                models.end_fetch(base_model)
