"""How the platform fares, for health and for requests that need a service: read from what the controller keeps."""

import asyncio
import time
from datetime import timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from api.engine_server.schemas import EngineHealth
from api.errors import ServiceDown
from api.generation.engine_client import EngineError
from api.generation.inference import Inference
from api.services import DOWN, LABELS, OK, STARTING
from registry.clock import timestamp, utcnow
from registry.database import Database
from registry.repositories.controller import ControllerRepository
from registry.tables import ControllerLease, LoopState, ServiceState

SILENCE = timedelta(seconds=15)
"""A controller that has recorded nothing for so long is down, and what it said of the others is out of date."""
PASSES_MISSED = 3
"""A loop that has missed so many passes, and `SILENCE`, does not work."""
ENGINE_SECONDS = 1.0


class Monitor:
    """Answers at once with what was last seen; holds nothing but the engine's last word, for a second."""

    def __init__(self, database: Database, engine: Inference) -> None:
        self._database = database
        self._inference = engine
        self._engine_health: EngineHealth | None = None
        self._engine_asked_at = float("-inf")
        self._asking_engine = asyncio.Lock()

    def services(self) -> dict[str, dict[str, Any]]:
        """Return each service's status, with its latency or the reason why it is not `ok`."""
        started = time.monotonic()
        try:
            with self._database.reading() as session:
                controller = ControllerRepository(session)
                lease, states = controller.lease(), controller.services()
        except SQLAlchemyError as error:
            return _unknown_but(str(error).splitlines()[0][:200])
        latency_ms = round((time.monotonic() - started) * 1000, 1)
        shown = {"database": {"status": OK, "latency_ms": latency_ms}}
        reason = _silence(lease)
        for name in LABELS:
            state = next((state for state in states if state.name == name), None)
            if name not in ("database", "controller"):
                shown[name] = _shown(state, reason)
        shown["controller"] = {"status": OK} if reason is None else {"status": _of_silence(lease), "reason": reason}
        return shown

    def loops(self) -> dict[str, dict[str, Any]]:
        """Return how each of the controller's background loops fares; empty while the database does not answer."""
        try:
            with self._database.reading() as session:
                return {state.name: _shown_loop(state) for state in ControllerRepository(session).loops()}
        except SQLAlchemyError:
            return {}

    def objection(self) -> str | None:
        """Return why this process can't serve requests, None if it can: that takes a database, and nothing else."""
        try:
            self._database.ping()
        except SQLAlchemyError as error:
            return f"The database does not answer ({str(error).splitlines()[0][:200]}); try again in a few seconds."
        return None

    def answers(self, name: str) -> bool:
        """Return whether the service answered when last asked."""
        return bool(self.services()[name]["status"] == OK)

    def require(self, *names: str) -> None:
        """Raise `ServiceDown` unless all these services answered when last asked."""
        services = self.services()
        for name in names:
            status = services[name]["status"]
            if status != OK:
                reason = services[name].get("reason", "it has not answered yet")
                raise ServiceDown(name, f"{LABELS[name]} is {status} ({reason}); try again in a few seconds.")

    async def engine(self) -> EngineHealth | None:
        """Return what the engine says of itself, at most a second old; None if it does not answer."""
        async with self._asking_engine:
            if time.monotonic() - self._engine_asked_at > ENGINE_SECONDS:
                try:
                    self._engine_health = await self._inference.health()
                except EngineError:
                    self._engine_health = None
                self._engine_asked_at = time.monotonic()
            return self._engine_health


def is_healthy(services: dict[str, dict[str, Any]], loops: dict[str, dict[str, Any]]) -> bool:
    """Return whether every service answers and every loop has passed lately."""
    return all(service["status"] == OK for service in services.values()) and all(loop["ok"] for loop in loops.values())


def _silence(lease: ControllerLease | None) -> str | None:
    """Return why nobody knows how the services fare; None if a controller keeps watch."""
    if lease is None:
        return "no controller has begun yet"
    if lease.released:
        return "the controller has stopped"
    seconds = abs(utcnow() - lease.renewed_at).total_seconds()
    return f"the controller has recorded nothing for {seconds:.0f} s" if seconds > SILENCE.total_seconds() else None


def _of_silence(lease: ControllerLease | None) -> str:
    return STARTING if lease is None else DOWN


def _shown(state: ServiceState | None, silence: str | None) -> dict[str, Any]:
    if silence is not None or state is None:
        return {"status": STARTING, "reason": silence or "it has not been asked yet"}
    if state.status == OK:
        return {"status": OK, "latency_ms": state.latency_ms}
    return {"status": state.status, "reason": state.reason}


def _shown_loop(state: LoopState) -> dict[str, Any]:
    lately = max(SILENCE, timedelta(seconds=PASSES_MISSED * state.interval_seconds))
    return {
        # One whose first pass is not over has just begun: each pass has its time limit, after which it has failed.
        # Not long ago, and not by a clock that has been set back since.
        "ok": abs(utcnow() - state.last_ok_at) < lately if state.last_ok_at is not None else not state.failures,
        "passes": state.passes,
        "failures": state.failures,
        "last_ok_at": state.last_ok_at and timestamp(state.last_ok_at),
        "last_error": state.last_error,
        "last_error_at": state.last_error_at and timestamp(state.last_error_at),
    }


def _unknown_but(reason: str) -> dict[str, dict[str, Any]]:
    unknown = {"status": STARTING, "reason": "the database, in which the controller records it, does not answer"}
    return {name: {"status": DOWN, "reason": reason} if name == "database" else unknown for name in LABELS}
