"""Asks every service of the platform for real work, and keeps how it fared for the health check."""

import logging
import time
from collections.abc import Awaitable, Callable

import httpx

from api.controller.background import Background, raise_all
from api.generation.engine_client import EngineError
from api.generation.inference import Inference
from api.services import DOWN, OK, STARTING, WORK_POOLS
from configs.settings import IDLE_CONNECTION_SECONDS, Settings
from registry.clock import utcnow
from registry.tables import ServiceState

logger = logging.getLogger(__name__)

SETTLED_SECONDS = 10.0
"""A service that works is asked this often; any other in every pass."""
# Prefect needs 0.1 s to answer for its workers, and hears from them every ten seconds only.
WORKER_SETTLED_SECONDS = 20.0
PROBE_TIMEOUT_SECONDS = 5.0


class ServiceProbes:
    """Probes Prefect, MLflow, worker and engine, each at its own pace: one that hangs delays no other."""

    def __init__(self, settings: Settings, engine: Inference, on_change: Callable[[], None]) -> None:
        """`on_change` is called when a service's status has changed."""
        self._settings = settings
        self._engine = engine
        self._on_change = on_change
        limits = httpx.Limits(keepalive_expiry=IDLE_CONNECTION_SECONDS)
        self._http = httpx.AsyncClient(
            auth=settings.services_login, timeout=PROBE_TIMEOUT_SECONDS, limits=limits, trust_env=False
        )
        self._probes: dict[str, Callable[[], Awaitable[None]]] = {
            # Not its /health, which answers whatever its database does.
            "prefect": lambda: self._get(f"{settings.prefect_api_url}/ready"),
            "mlflow": lambda: self._get(f"{settings.mlflow_url}/api/2.0/mlflow/experiments/search?max_results=1"),
            "worker": self._probe_worker,
            "engine": self._probe_engine,
        }
        self._next: dict[str, float] = dict.fromkeys(self._probes, float("-inf"))
        self._running = Background[str]()
        self.states = {name: _state(name, STARTING, "it has not been asked yet") for name in self._probes}

    async def close(self) -> None:
        """End the probes and close the connections."""
        await self._running.close()
        await self._http.aclose()

    async def run_pass(self) -> None:
        """Begin the probes that are due; raises what a probe has failed with that is no answer of its service."""
        errors = self._running.collect()
        for name in self._probes:
            if name not in self._running.keys and time.monotonic() >= self._next[name]:
                self._running.start(name, self._ask(name))
        raise_all(errors, "probes")

    async def _ask(self, name: str) -> None:
        started = time.monotonic()
        try:
            await self._probes[name]()
        except (httpx.HTTPError, EngineError, _NotReady) as error:
            self._record(name, None, (str(error) or type(error).__name__).splitlines()[0][:200])
            return
        self._next[name] = started + (WORKER_SETTLED_SECONDS if name == "worker" else SETTLED_SECONDS)
        self._record(name, round((time.monotonic() - started) * 1000, 1), None)

    def _record(self, name: str, latency_ms: float | None, reason: str | None) -> None:
        before = self.states[name].status
        # Until a service has answered once it is starting, not down.
        status = OK if reason is None else STARTING if before == STARTING else DOWN
        if status == DOWN and before == OK:
            logger.warning("%s does not answer: %s", name, reason)
        self.states[name] = _state(name, status, reason, latency_ms)
        if status != before:
            self._on_change()

    async def _get(self, url: str) -> None:
        (await self._http.get(url)).raise_for_status()

    async def _probe_engine(self) -> None:
        """The engine's port opens before its libraries are imported; until then it is not there."""
        health = await self._engine.health()
        if health.status != "ok":
            raise _NotReady(f"the engine is {health.status}" + (f": {health.error}" if health.error else ""))

    async def _probe_worker(self) -> None:
        """The worker is there when Prefect has heard from it lately, in all of its pools."""
        for pool in WORK_POOLS:
            url = f"{self._settings.prefect_api_url}/work_pools/{pool}/workers/filter"
            response = await self._http.post(url, json={"workers": {"status": {"any_": ["ONLINE"]}}})
            if response.is_error or not response.json():
                raise _NotReady(f"no worker is online in Prefect's work pool {pool!r}")


def _state(name: str, status: str, reason: str | None, latency_ms: float | None = None) -> ServiceState:
    return ServiceState(name=name, status=status, reason=reason, latency_ms=latency_ms, checked_at=utcnow())


class _NotReady(Exception):
    """A service answered, but not as one that works."""
