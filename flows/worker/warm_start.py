"""Start flow runs as forks of one server process that has already imported what they need.

A run starts in 0.2 s instead of the 5 s that importing torch, transformers, MLflow and Prefect takes. The
server is Python's own forkserver: no thread runs in it and it never touches CUDA, so its children may.
"""

import ctypes
import gc
import logging
import multiprocessing
import os
import runpy
import signal
import sys
import threading
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

import anyio
import anyio.abc
import prefect.engine
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import refresh_global_settings_context
from prefect.runner._control_channel import ControlChannel
from prefect.runner._process_manager import ProcessHandle, create_isolated_termination_scope
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.utilities.processutils import sanitize_subprocess_env

STOP_GRACE_SECONDS = 10.0
"""Time a run has to leave (checkpoint, put itself back in line) when the worker is told to stop."""

LIBRARIES = [
    "flows.worker.warm_start",
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect.events.clients",
    "prefect.runner",
    "anyio._backends._asyncio",
    "pydantic.v1",
    "rich._emoji_codes",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "peft",
    "mlflow",
    "mlflow.tracking",
    # Our flows import these when a run begins.
    "tasks.evaluate",
    "tasks.register",
    "tasks.train",
]
"""What every run needs; the flows' own modules are added by `prepare_forkserver`."""

_PR_SET_PDEATHSIG = 1
_context = multiprocessing.get_context("forkserver")
_logger = logging.getLogger(__name__)


def prepare_forkserver(modules: list[str]) -> None:
    """Start the server and let it import the libraries and `modules`; returns at once.

    Must be called from the main thread: the kernel ties a child's life to the thread that made it.
    """
    _context.set_forkserver_preload([*LIBRARIES, *modules])
    forkserver.ensure_running()


def stop_forkserver() -> None:
    """End the server at once; by itself it would first finish its imports."""
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    if pid is not None:
        os.kill(pid, signal.SIGTERM)


class ForkedEngineStarter:
    """Runs Prefect's engine for one flow run in a forked child: a `ProcessStarter` of Prefect's executor."""

    def __init__(self, environment: dict[str, str | None], control_channel: ControlChannel, folder: str) -> None:
        self._environment = environment
        self._control_channel = control_channel
        self._folder = folder

    async def start(
        self,
        flow_run: FlowRun,
        task_status: anyio.abc.TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Start the child, report it, and return when it has exited.

        When the worker is told to stop meanwhile, the child gets SIGTERM, `STOP_GRACE_SECONDS`, then SIGKILL.
        """
        port, token = self._control_channel.register(flow_run.id)
        environment: dict[str, str | None] = {
            **self._environment,
            "PREFECT__FLOW_RUN_ID": str(flow_run.id),
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
            "PREFECT__CONTROL_PORT": str(port),
            "PREFECT__CONTROL_TOKEN": token,
        }
        if (environment.get("PREFECT_API_URL") or "").startswith("http://"):
            # Each of the run's clients would read the certificate store (50 ms) for a server without TLS.
            environment["PREFECT_API_TLS_INSECURE_SKIP_VERIFY"] = "true"
        forkserver.ensure_running()  # from the main thread, should it have died
        process = await anyio.to_thread.run_sync(
            partial(_start_engine, sanitize_subprocess_env(environment), self._folder)
        )
        handle = ProcessHandle(process, termination_scope=create_isolated_termination_scope(process.pid))
        task_status.started(handle)
        try:
            await _exited(process)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await _stop(handle, process)
            raise


class NoHooks:
    """Runs no `on_cancellation` and `on_crashed` hooks: loading a flow for them would bring torch into the worker."""

    async def run_cancellation_hooks(self, flow_run: FlowRun, state: State) -> None:
        """Do nothing; a cancelled run cleans up on its SIGTERM."""

    async def run_crashed_hooks(self, flow_run: FlowRun, state: State) -> None:
        """Do nothing; the reconciler of training jobs sees to crashed runs."""


def _start_engine(environment: dict[str, str], folder: str) -> Any:
    """Fork a child and return it once it leads its own process group, so that signals to the group reach it."""
    reader, writer = _context.Pipe(duplex=False)
    process = _context.Process(target=_run_engine, args=(environment, folder, writer))
    process.start()
    writer.close()
    with reader:
        try:
            reader.recv()
        except EOFError:
            process.join()
            raise RuntimeError(f"The flow run's process ended with code {process.exitcode}.") from None
    return process


def _run_engine(environment: dict[str, str], folder: str, ready: Connection) -> None:
    """Become what `python -m prefect.engine` would be, for the flow run that the environment names."""
    os.setsid()
    _leave_with_worker()
    gc.freeze()  # collections need not walk (and copy) the pages shared with the forkserver
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    refresh_global_settings_context()
    with ready:
        ready.send(os.getpid())
    sys.argv = ["prefect.engine"]
    # Prefect's heartbeats serve automations that restart silent runs, which our own leases do; and ending
    # their thread would hold every finished run's process for a second.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        runpy.run_path(prefect.engine.__file__, run_name="__main__")


def _leave_with_worker() -> None:
    """Have this process get SIGTERM, once, when the worker ends without having stopped it.

    The kernel sends it when the forkserver ends. The forkserver itself ends when nobody holds its "alive" pipe
    any more, but first tears down all that it imported, for seconds: so it is ended as soon as the worker is.
    """
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    threading.Thread(target=_await_worker_end, args=(parent,), daemon=True).start()


def _await_worker_end(parent: int) -> None:
    worker = multiprocessing.parent_process()
    if worker is not None:
        worker.join()
        if sys.platform != "linux":
            os.kill(os.getpid(), signal.SIGTERM)
        elif os.getppid() == parent:
            os.kill(parent, signal.SIGTERM)


async def _exited(process: Any) -> None:
    await anyio.wait_readable(process.sentinel)
    process.join()


async def _stop(handle: ProcessHandle, process: Any) -> None:
    handle.graceful_kill()
    with anyio.move_on_after(STOP_GRACE_SECONDS):
        await _exited(process)
        return
    _logger.warning("Flow run process %s did not leave within %s s: killed", process.pid, STOP_GRACE_SECONDS)
    handle.hard_kill()
    await _exited(process)
