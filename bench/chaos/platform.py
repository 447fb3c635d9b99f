"""The platform under test: its services found by command line, killed by process id, and started again."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import httpx
import psutil

from tests.e2e.platform_process import PARTS, READY_SECONDS, PlatformProcess

PORTS = range(15_000, 30_000)
"""Below the ports that the kernel gives to outgoing connections: a restarted service must find its own free."""
DOOR_TIMEOUT_SECONDS = 45.0
COMMANDS = {
    "worker": "flows.worker",
    "prefect": "flows.prefect_server",
    "mlflow": "mlflow.server.fastapi_app:app",
    "api": "api.server",
    "engine": "api.engine_server.server",
    "supervisord": "supervisor.supervisord",
}


def ports_to_keep(count: int) -> list[int]:
    """Return free ports that no outgoing connection takes while their service is down."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as attempt:
            try:
                attempt.bind(("127.0.0.1", random.choice(PORTS)))
            except OSError:
                continue
            found.append(attempt.getsockname()[1])
    return list(dict.fromkeys(found)) if len(set(found)) == count else ports_to_keep(count)


class ChaosPlatform(PlatformProcess):
    """`make run` with a checkpoint every second, whose services can be killed one by one or all at once."""

    def __init__(self, data_dir: Path, models_dir: Path, scratch: Path) -> None:
        super().__init__(data_dir, models_dir)
        self.ports = dict(zip(PARTS, ports_to_keep(len(PARTS)), strict=True))
        self.environment |= {
            **{f"LLM_PLATFORM_{part.upper()}_PORT": str(port) for part, port in self.ports.items()},
            "LLM_PLATFORM_CHECKPOINT_INTERVAL_SECONDS": "1",
            "LLM_PLATFORM_PAUSE_WAIT_SECONDS": "15",
            "TMPDIR": str(scratch),
        }
        self.http.close()
        self.base_url = f"http://localhost:{self.ports['api']}/api"
        self.http = httpx.Client(base_url=self.base_url, timeout=DOOR_TIMEOUT_SECONDS)

    @property
    def ended(self) -> bool:
        """Whether `make run` has ended, by itself or killed."""
        return self._process is None or self._process.poll() is not None

    def part(self, name: str) -> psutil.Process | None:
        """Return the process of a service, the `forkserver` of its worker, or `up`; None if it is not there."""
        processes = self.processes()
        for process in processes:
            try:
                command = process.cmdline()
                if name == "forkserver":
                    parent = process.parent()
                    # Flow runs are its forks, and have its command line.
                    found = _is_forkserver(command) and parent is not None and COMMANDS["worker"] in parent.cmdline()
                elif name == "up":
                    found = command[-1:] == ["up"] and command[-2].endswith("llm-platform")
                else:
                    found = COMMANDS[name] in command
            except psutil.Error:
                continue  # it ended while it was looked at
            if found:
                return process
        return None

    def start(self) -> float:
        """Run `make run` and wait until it says that every service is ready; return the seconds that took."""
        begins, started = len(self.output), time.monotonic()
        super().start()
        # The parts of a platform that was killed may still have answered.
        self.wait_until(lambda: self.ended or self._ready(begins), READY_SECONDS, "`make run` to say that all is ready")
        if not self._ready(begins):
            raise AssertionError("`make run` ended before all was ready")
        return time.monotonic() - started

    def stop(self) -> None:
        """Press Ctrl-C; the ended process is kept in mind, so that what it left behind can be looked for."""
        process = self._process
        super().stop()
        self._process = process

    def _ready(self, begins: int) -> bool:
        return any("Ready after" in line for line in self.output[begins:])

    def kill_all(self) -> None:
        """Take the power away: freeze every process of the platform, then kill them all."""
        frozen: set[psutil.Process] = set()
        while fresh := set(self.processes()) - frozen:
            _signal(fresh, signal.SIGSTOP)
            frozen |= fresh
        while frozen:
            _signal(frozen, signal.SIGKILL)
            time.sleep(0.05)
            frozen = set(self.processes())
        if self._process is not None:
            self._process.wait()

    def wait_ended(self, seconds: float) -> bool:
        """Wait until `make run` has ended; return whether it has."""
        assert self._process is not None
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


def _is_forkserver(command: list[str]) -> bool:
    return any("multiprocessing.forkserver" in argument for argument in command)


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            continue
