"""Run this machine's worker: register the deployments, then run each work pool's flow runs, one at a time."""

import argparse
import logging
import signal
from functools import partial
from pathlib import Path

import anyio
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_URL,
    temporary_settings,
)

from configs.settings import get_settings
from flows.deployments import (
    DEPLOYMENTS_FILE,
    DeploymentSpec,
    apply_deployments,
    ensure_work_pools,
    incomplete,
    outdated,
    read_specs,
)
from flows.worker.warm_start import prepare_forkserver, stop_forkserver
from flows.worker.warm_worker import HEARTBEAT_SECONDS, LOOK_AHEAD_SECONDS, WarmWorker, repeat
from registry.run_events import RunEvents

PATIENCE_SECONDS = 8.0
"""A server that takes longer is making its tables: time enough to warm up, which else waits for it to start."""

CHECK_SECONDS = 5.0
"""How often it is asked whether deployments and work pools are still there."""

_logger = logging.getLogger("prefect.worker.warm")


async def _until_server_answers() -> None:
    async with get_client() as client:
        while await client.api_healthcheck() is not None:
            await anyio.sleep(0.2)


async def work(deployments_file: Path) -> None:
    """Register the deployments, then serve their work pools until SIGTERM or SIGINT."""
    specs = read_specs(deployments_file)
    modules = [spec.module for spec in specs]
    async with anyio.create_task_group() as group:
        group.start_soon(_stop_on_signal, group.cancel_scope)
        with anyio.move_on_after(PATIENCE_SECONDS) as patience:
            await _until_server_answers()
        if patience.cancelled_caught:
            prepare_forkserver(modules)
            await _until_server_answers()
        async with get_client() as client:
            await ensure_work_pools(client, specs)
            if await outdated(client, specs):
                await apply_deployments(specs)
        workers = [
            WarmWorker(
                pool,
                name=pool,
                limit=1,
                heartbeat_interval_seconds=HEARTBEAT_SECONDS,
                prefetch_seconds=LOOK_AHEAD_SECONDS,
            )
            for pool in sorted({spec.work_pool for spec in specs})
        ]
        events = _events(workers)
        for worker in workers:
            worker.companions = [other for other in workers if other is not worker]
            worker.events = events
            group.start_soon(worker.serve)
        group.start_soon(events.run)
        prepare_forkserver(modules)
        group.start_soon(_keep_deployments, specs)


async def _keep_deployments(specs: list[DeploymentSpec]) -> None:
    """Register anew what somebody deletes in Prefect's UI: without it accepted jobs would wait for ever."""

    async def make_again() -> None:
        if not await incomplete(client, specs):
            return
        _logger.warning("A deployment or a work pool was deleted in Prefect: they are made again")
        await ensure_work_pools(client, specs)
        await apply_deployments(specs)

    # One client for all checks: making one costs ten times what it asks for.
    async with get_client() as client:
        await repeat(make_again, partial(anyio.sleep, CHECK_SECONDS))


def _events(workers: list[WarmWorker]) -> RunEvents:
    """Prefect's events: each worker hears of runs that are scheduled, or may have been while nobody listened."""

    def wake(state_type: str | None) -> None:
        if state_type in (None, "SCHEDULED"):
            for worker in workers:
                worker.expect_runs()

    settings = get_settings()
    return RunEvents(settings.prefect_api_url, wake, settings.services_login)


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            _logger.info("%s: stopping", number.name)
            scope.cancel()
            return


def main() -> None:
    """Run the worker of this machine."""
    parser = argparse.ArgumentParser(prog="python -m flows.worker", description=__doc__)
    parser.add_argument("--deployments", type=Path, default=DEPLOYMENTS_FILE, help="a prefect.yaml")
    arguments = parser.parse_args()
    with temporary_settings({PREFECT_API_URL: get_settings().prefect_api_url}):
        try:
            anyio.run(work, arguments.deployments)
        finally:
            stop_forkserver()


if __name__ == "__main__":
    main()
