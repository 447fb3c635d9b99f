"""Prefect's process worker with warm starts: polls one work pool and runs its flow runs in forked children."""

import logging
import math
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence

import anyio
import anyio.abc
import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.runner._flow_run_executor import FlowRunExecutionResult, FlowRunExecutorContext
from prefect.runner._process_manager import ProcessHandle
from prefect.workers.base import BaseWorker
from prefect.workers.process import ProcessJobConfiguration, ProcessVariables, ProcessWorkerResult

from flows.worker.warm_start import ForkedEngineStarter, NoHooks

POLL_SECONDS = 0.5
BESIDE_POLL_SECONDS = 2.5
"""While another pool's run computes: a poll costs the server 25 ms of a core, which that run could use."""
FULL_POLL_SECONDS = 30.0
"""Prefect's UI calls a queue that was not asked for a minute "not ready"."""
HEARTBEAT_SECONDS = 10

_logger = logging.getLogger("prefect.worker.warm")


class WarmWorker(BaseWorker[ProcessJobConfiguration, ProcessVariables, ProcessWorkerResult]):
    """Prefect's process worker, but a run is a fork of a warm process, and no outage of the server ends it."""

    type = "process"
    _polled_at = 0.0
    companions: Sequence["WarmWorker"] = ()
    """The workers of this machine's other pools."""
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
        """Poll for flow runs and send heartbeats until cancelled."""
        async with self, anyio.create_task_group() as loops:
            loops.start_soon(repeat, self._poll, POLL_SECONDS)
            loops.start_soon(repeat, self._sync_and_initialize, float(self.heartbeat_interval_seconds))
            _logger.info("Worker '%s' polls work pool '%s'", self.name, self._work_pool_name)

    async def _poll(self) -> None:
        """Ask for runs that are due; seldom while no slot is free, and less often beside a run of another pool."""
        beside = any(companion.slots_taken for companion in self.companions)
        pause = FULL_POLL_SECONDS if self.slots_free < 1 else BESIDE_POLL_SECONDS if beside else 0.0
        if time.monotonic() - self._polled_at < pause:
            return
        self._polled_at = time.monotonic()
        await self.get_and_submit_flow_runs()

    @property
    def slots_free(self) -> float:
        """How many more runs this worker would start now."""
        return math.inf if self._limiter is None else self._limiter.available_tokens

    @property
    def slots_taken(self) -> float:
        """How many runs it has on their way."""
        return 0 if self._limiter is None else self._limiter.borrowed_tokens


async def repeat(work: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Call `work` every so many seconds, whatever it raises: Prefect's own loop ends after 25 s of outage."""
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
        await anyio.sleep(seconds)
