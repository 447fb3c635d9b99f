"""The controller: every background loop of the platform, run by the one process that leads."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from api.controller.availability import AvailabilityWatch
from api.controller.ingestion import Ingestion
from api.controller.leadership import RENEW_SECONDS, Leadership
from api.controller.mlflow_sync import MlflowSync
from api.controller.probes import ServiceProbes
from api.controller.reconciler import Reconciler
from api.controller.retention import RetentionPass
from api.controller.supervise import Loop, supervise
from api.controller.webhook_delivery import WebhookSender
from api.generation.inference import inference_client
from api.orchestration.prefect_client import Orchestrator
from configs.settings import Settings
from registry.changes import changes_of
from registry.database import Database
from registry.repositories.controller import ControllerRepository
from registry.run_events import RunEvents

logger = logging.getLogger(__name__)

UNDER_WAY_SECONDS = 1.0
"""How often records are looked at while a run is under way: a process that dies wakes nobody."""
QUIET_SECONDS = 5.0
AFTER_EVENT_SECONDS = (0.0, 0.5, 1.5)
CHANGE_SECONDS = 0.2
"""How soon what is committed elsewhere wakes the loops that work on it."""


class Controller:
    """Runs the loops while this process leads, and waits for the lead otherwise."""

    def __init__(self, settings: Settings) -> None:
        """Make the loops; nothing runs or connects yet."""
        self._database = Database(settings.platform_database_url)
        self._changes = changes_of(self._database)
        # A lease that is renewed is no news for the loops.
        self._leadership = Leadership(self._database, self._changes.transaction)
        self._orchestrator = Orchestrator(settings.prefect_api_url, settings.services_login)
        self._engine = inference_client(settings)
        self._lease = Loop("lease", self._renew, RENEW_SECONDS, longest_pause=RENEW_SECONDS)
        self._probes = ServiceProbes(settings, self._engine, self._service_changed)
        self._events = RunEvents(settings.prefect_api_url, self._run_changed, settings.services_login)
        self._reconciler = Reconciler(self._database, self._orchestrator, lambda: self._events.listening)
        self._reconcile = Loop("reconcile", self._reconcile_records, UNDER_WAY_SECONDS)
        self._mlflow_sync = MlflowSync(settings, self._database)
        self._ingestion = Ingestion(settings, self._database)
        self._webhooks = WebhookSender(settings, self._database)
        availability = AvailabilityWatch(settings, self._database)
        # Those that work on what others commit are woken by it; their intervals are for what only time brings.
        self._woken = [
            self._reconcile,
            Loop("mlflow_sync", self._mlflow_sync.run_pass, 10.0),
            Loop("ingestion", self._ingestion.run_pass, 10.0),
            Loop("webhooks", self._webhooks.run_pass, 2.0),
            Loop("availability", availability.run_pass, 5.0),
        ]
        retention = RetentionPass(settings, self._database)
        self.loops = [
            self._lease,
            Loop("changes", self._look_for_changes, CHANGE_SECONDS),
            Loop("services", self._probes.run_pass, 1.0),
            # A pass of a large data folder may take long.
            Loop("retention", retention.run_pass, 600.0, pass_seconds=6 * 3600.0),
            *self._woken,
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set; then leave the lead in order."""
        async with AsyncExitStack() as stack:
            stack.callback(self._database.close)
            stack.callback(self._changes.close)
            closing: tuple[Callable[[], Awaitable[None]], ...] = (
                self._orchestrator.close,
                self._engine.close,
                self._probes.close,
                self._mlflow_sync.close,
                self._webhooks.close,
                self._ingestion.close,
                self._release,
            )
            for close in closing:
                stack.push_async_callback(close)
            tasks = [asyncio.create_task(self._supervised(loop), name=loop.name) for loop in self.loops]
            tasks.append(asyncio.create_task(self._events.run(), name="events"))
            try:
                await stop.wait()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _supervised(self, loop: Loop) -> None:
        leads = (lambda: True) if loop is self._lease else (lambda: self._leadership.leads)
        await supervise(loop, leads, self._lease.wake.set)

    async def _renew(self) -> None:
        """Renew the lease, or take it where nobody has it; the leader records how loops and services fare."""
        if await asyncio.to_thread(self._leadership.keep_or_take):
            await asyncio.to_thread(self._record)

    def _record(self) -> None:
        with self._changes.transaction() as session:
            states = [loop.state() for loop in self.loops]
            ControllerRepository(session).record(states, list(self._probes.states.values()))

    async def _release(self) -> None:
        await asyncio.to_thread(self._leadership.release)

    async def _reconcile_records(self) -> None:
        await self._reconciler.run_pass()
        self._reconcile.interval = QUIET_SECONDS if self._reconciler.is_quiet else UNDER_WAY_SECONDS

    def _service_changed(self) -> None:
        """Record it now, and let those loops try again that may have waited for it."""
        self._lease.wake.set()
        for loop in self.loops:
            loop.retry.set()

    def _run_changed(self, _state_type: str | None) -> None:
        """Ask Prefect now, and again shortly after: an event can come a moment before its change is committed."""
        for seconds in AFTER_EVENT_SECONDS:
            asyncio.get_running_loop().call_later(seconds, self._look_now)

    def _look_now(self) -> None:
        self._reconciler.look_now()
        self._reconcile.wake.set()

    async def _look_for_changes(self) -> None:
        # On SQLite a read of shared memory; a thread for it would cost more than it does.
        if self._changes.blocks:
            changed = await asyncio.to_thread(self._changes.poll)
        else:
            changed = self._changes.poll()
        if changed:
            for loop in self._woken:
                loop.wake.set()
