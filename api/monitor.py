"""Watches the platform's services, so that `/api/health` answers at once with what was last seen."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from sqlalchemy.exc import SQLAlchemyError

from api.engine_server.schemas import EngineHealth
from api.errors import ServiceDown
from api.generation.engine_client import EngineClient, EngineError
from api.generation.openai_backend import OpenAIBackend
from api.launcher.services import WORK_POOLS
from configs.settings import Settings
from registry.database import Database

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
# Prefect needs 0.1 s to answer for its workers, and hears from them every ten seconds only.
WORKER_INTERVAL_SECONDS = 5.0
PROBE_TIMEOUT_SECONDS = 5.0
LABELS = {
    "database": "The database",
    "prefect": "The Prefect server",
    "mlflow": "The MLflow server",
    "worker": "The worker",
    "engine": "The inference engine",
}
STARTING, OK, DOWN = "starting", "ok", "down"


class Monitor:
    """Probes database, Prefect, MLflow, worker and engine once a second."""

    def __init__(self, settings: Settings, database: Database, engine: EngineClient | OpenAIBackend) -> None:
        self._settings = settings
        self._database = database
        self._http = httpx.AsyncClient(timeout=PROBE_TIMEOUT_SECONDS, trust_env=False)
        self._probes: dict[str, Callable[[], Awaitable[None]]] = {
            "database": self._probe_database,
            "prefect": lambda: self._probe_http(f"{settings.prefect_api_url}/health"),
            "mlflow": lambda: self._probe_http(f"{settings.mlflow_url}/health"),
            "worker": self._probe_worker,
            "engine": self._probe_engine,
        }
        self._engine = engine
        self.engine: EngineHealth | None = None
        """What the engine last said of itself; None before that, and once it no longer answers."""
        self.services: dict[str, dict[str, Any]] = {name: {"status": STARTING} for name in self._probes}

    @property
    def healthy(self) -> bool:
        """Whether every service answered when last asked."""
        return all(self.answers(name) for name in self.services)

    def answers(self, name: str) -> bool:
        """Return whether the service answered when last asked."""
        return bool(self.services[name]["status"] == OK)

    def require(self, name: str) -> None:
        """Raise `ServiceDown` unless the service answered when last asked."""
        if not self.answers(name):
            service = self.services[name]
            reason = service.get("reason", "it has not answered yet")
            raise ServiceDown(name, f"{LABELS[name]} is {service['status']} ({reason}); try again in a few seconds.")

    async def run(self) -> None:
        """Probe every service while the API runs, each at its own pace: one that hangs delays no other."""
        try:
            await asyncio.gather(*(self._watch(name, probe) for name, probe in self._probes.items()))
        finally:
            await self._http.aclose()

    async def _watch(self, name: str, probe: Callable[[], Awaitable[None]]) -> None:
        while True:
            started = time.monotonic()
            try:
                await probe()
            except (httpx.HTTPError, EngineError, SQLAlchemyError, _NotReady) as error:
                self._record_failure(name, str(error) or type(error).__name__)
            else:
                self.services[name] = {"status": OK, "latency_ms": round((time.monotonic() - started) * 1000, 1)}
            settled = name == "worker" and self.answers(name)
            await asyncio.sleep(WORKER_INTERVAL_SECONDS if settled else INTERVAL_SECONDS)

    def _record_failure(self, name: str, reason: str) -> None:
        if name == "engine":
            self.engine = None
        # Until a service has answered once it is starting, not down.
        status = STARTING if self.services[name]["status"] == STARTING else DOWN
        if status == DOWN and self.services[name]["status"] == OK:
            logger.warning("%s does not answer: %s", name, reason)
        self.services[name] = {"status": status, "reason": reason.splitlines()[0][:200]}

    async def _probe_database(self) -> None:
        await asyncio.to_thread(self._database.ping)

    async def _probe_http(self, url: str) -> None:
        (await self._http.get(url)).raise_for_status()

    async def _probe_engine(self) -> None:
        """The engine's port opens before its libraries are imported; until then it is not there."""
        self.engine = await self._engine.health()
        if self.engine.status != "ok":
            reason = f": {self.engine.error}" if self.engine.error else ""
            raise _NotReady(f"the engine is {self.engine.status}{reason}")

    async def _probe_worker(self) -> None:
        """The worker is there when Prefect has heard from it lately, in both of its pools."""
        for pool in WORK_POOLS:
            url = f"{self._settings.prefect_api_url}/work_pools/{pool}/workers/filter"
            response = await self._http.post(url, json={"workers": {"status": {"any_": ["ONLINE"]}}})
            if response.is_error or not response.json():
                raise _NotReady(f"no worker is online in Prefect's work pool {pool!r}")


class _NotReady(Exception):
    """A service answered, but not as one that works."""
