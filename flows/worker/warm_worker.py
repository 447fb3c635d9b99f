"""Prefect's process worker with warm starts: polls one work pool and runs its flow runs in forked children."""

import asyncio
import logging
import math
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import anyio
import anyio.abc
import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.runner._flow_run_executor import FlowRunExecutionResult, FlowRunExecutorContext
from prefect.runner._process_manager import ProcessHandle
from prefect.workers.base import BaseWorker
from prefect.workers.process import ProcessJobConfiguration, ProcessVariables, ProcessWorkerResult

from flows.worker.warm_start import ForkedEngineStarter, NoHooks
from registry.run_events import RunEvents

POLL_SECONDS = 0.5
"""While a run is expected, or Prefect's events can't be heard. A poll costs the server 17 ms of a core."""
BESIDE_POLL_SECONDS = 2.5
"""The same while another pool's run computes, which could use that core."""
IDLE_POLL_SECONDS = 30.0
"""Else. Prefect's UI calls a queue that was not asked for a minute "not ready"."""
EXPECTED_SECONDS = 1.5
"""How long a run is expected after an event: the event may come before the change is committed."""
LOOK_AHEAD_SECONDS = 60
"""How far ahead runs are asked for: one that is due before the next poll makes that poll come in time."""
TICK_SECONDS = 0.5
HEARTBEAT_SECONDS = 10

_logger = logging.getLogger("prefect.worker.warm")


class WarmWorker(BaseWorker[ProcessJobConfiguration, ProcessVariables, ProcessWorkerResult]):
    """Prefect's process worker, but a run is a fork of a warm process, and no outage of the server ends it."""

    type = "process"
    companions: Sequence["WarmWorker"] = ()
    """The workers of this machine's other pools."""
    events: RunEvents | None = None
    """What calls `expect_runs`; without it, or while it can't listen, Prefect is asked all the time."""
    _polled_at = -math.inf
    _expected_until = -math.inf
    _next_start: datetime | None = None
    _was_full = False
    _woken: asyncio.Event
    job_configuration = ProcessJobConfiguration
    job_configuration_variables = ProcessVariables

    @classmethod
    def __dispatch_key__(cls) -> str:
        """A registry key of its own: `process` stays Prefect's worker."""
        return "warm-process"

    async def run(
        self,
        flow_run: FlowRun,
        configuration: ProcessJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        """Execute one flow run in a forked child; cancellation, crash reports and logs are Prefect's own."""
        executions: list[FlowRunExecutionResult | None] = []
        with tempfile.TemporaryDirectory(prefix="flow-run-") as folder:
            async with FlowRunExecutorContext() as context:
                executor = context.create_executor(
                    flow_run,
                    ForkedEngineStarter(configuration.env, context.control_channel, folder),
                    propose_submitting=False,
                    hook_runner=NoHooks(),
                )

                async def execute(*, task_status: anyio.abc.TaskStatus[ProcessHandle]) -> None:
                    executions.append(await executor.submit(task_status=task_status))

                async with anyio.create_task_group() as group:
                    handle = await group.start(execute)
                    if task_status is not None:
                        task_status.started(handle.pid)
        execution = executions[0]
        if execution is None or execution.status_code is None:
            raise RuntimeError("The flow run's process did not start.")
        return ProcessWorkerResult(status_code=execution.status_code, identifier=str(execution.handle.pid))

    async def serve(self) -> None:
        """Ask for flow runs and send heartbeats until cancelled."""
        self._woken = asyncio.Event()
        async with self, anyio.create_task_group() as loops:
            loops.start_soon(repeat, self._poll, self._until_tick)
            loops.start_soon(repeat, self._sync_and_initialize, self._until_heartbeat)
            _logger.info("Worker '%s' serves work pool '%s'", self.name, self._work_pool_name)

    def expect_runs(self) -> None:
        """Ask for runs now and for a moment on: one has been scheduled, or a slot has become free."""
        self._expected_until = time.monotonic() + EXPECTED_SECONDS
        self._woken.set()

    async def _until_tick(self) -> None:
        with anyio.move_on_after(TICK_SECONDS):
            await self._woken.wait()
        self._woken.clear()

    async def _until_heartbeat(self) -> None:
        await anyio.sleep(float(self.heartbeat_interval_seconds))

    async def _poll(self) -> None:
        """Ask for runs, if it is time to."""
        full, self._was_full = self._was_full, self.slots_free < 1
        if full and not self._was_full:
            self._expected_until = time.monotonic() + EXPECTED_SECONDS
        if time.monotonic() - self._polled_at < self._pause:
            return
        self._polled_at = time.monotonic()
        await self.get_and_submit_flow_runs()

    @property
    def _pause(self) -> float:
        """Seconds from one poll to the next, as things are now."""
        if self.slots_free < 1:
            return IDLE_POLL_SECONDS
        due = self._next_start is not None and self._next_start <= datetime.now(UTC)
        deaf = self.events is None or not self.events.listening
        if not (due or deaf or time.monotonic() < self._expected_until):
            return IDLE_POLL_SECONDS
        beside = any(companion.slots_taken for companion in self.companions)
        return BESIDE_POLL_SECONDS if beside and deaf else POLL_SECONDS / 2

    async def _get_scheduled_flow_runs(self) -> list[WorkerFlowRunResponse]:
        """Return the runs that are due, and keep in mind when the next one will be."""
        found, now = await super()._get_scheduled_flow_runs(), datetime.now(UTC)
        later = [start for run in found if (start := run.flow_run.next_scheduled_start_time) and start > now]
        self._next_start = min(later, default=None)
        return [run for run in found if (start := run.flow_run.next_scheduled_start_time) is None or start <= now]

    @property
    def slots_free(self) -> float:
        """How many more runs this worker would start now."""
        return math.inf if self._limiter is None else self._limiter.available_tokens

    @property
    def slots_taken(self) -> float:
        """How many runs it has on their way."""
        return 0 if self._limiter is None else self._limiter.borrowed_tokens


async def repeat(work: Callable[[], Awaitable[object]], pause: Callable[[], Awaitable[None]]) -> None:
    """Call `work` again after each `pause`, whatever it raises: Prefect's own loop ends after 25 s of outage."""
    failing = False
    while True:
        try:
            await work()
        except httpx.HTTPError as error:
            if not failing:
                _logger.warning("The Prefect server can't be reached, still trying: %r", error)
            failing = True
        except Exception:
            _logger.exception("A worker's round failed, still trying")
        else:
            if failing:
                _logger.info("The Prefect server is back")
            failing = False
        await pause()
