"""The platform under test: its services found by command line, killed by process id, and started again."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from bench.wall_clock import WallClock
from registry.database import Database
from registry.repositories.controller import ControllerRepository
from tests.e2e.platform_process import PARTS, READY_SECONDS, PlatformProcess
from tests.postgresql_server import PostgresqlServer

SMALL_DISK = "3g"

PORTS = range(15_000, 30_000)
"""Below the ports that the kernel gives to outgoing connections: a restarted service must find its own free."""
ANSWER_SECONDS = 45.0
COMMANDS = {
    "worker": "flows.worker",
    "prefect": "flows.prefect_server",
    "mlflow": "registry.mlflow_server",
    "controller": "api.controller",
    "api": "api.server",
    "engine": "api.engine_server.server",
    "supervisord": "api.launcher.supervisor_process",
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

    def __init__(
        self, data_dir: Path, models_dir: Path, scratch: Path, postgresql: PostgresqlServer | None = None
    ) -> None:
        """With a PostgreSQL server all three databases are there; two API processes serve in any case."""
        super().__init__(data_dir, models_dir)
        self.models_dir = models_dir
        self.postgresql = postgresql
        data_dir.mkdir(exist_ok=True)
        self.small_disk = can_mount(data_dir)
        self.own_host_name = _succeeds("unshare", "--uts", "true")
        if self.own_host_name:
            self.command = ["unshare", "--uts", "make", "run"]
        self.clock: WallClock | None = None
        with suppress(OSError):
            self.clock = WallClock(scratch)
            self.environment |= self.clock.environment
        if postgresql is not None:
            self.environment |= {
                "LLM_PLATFORM_DATABASE_URL": postgresql.url("platform"),
                "LLM_PLATFORM_MLFLOW_DATABASE_URL": postgresql.url("mlflow"),
                "LLM_PLATFORM_PREFECT_DATABASE_URL": postgresql.url("prefect", driver="asyncpg"),
            }
        self._second_controller: subprocess.Popen[bytes] | None = None
        self.ports = dict(zip(PARTS, ports_to_keep(len(PARTS)), strict=True))
        self.environment |= {
            **{f"LLM_PLATFORM_{part.upper()}_PORT": str(port) for part, port in self.ports.items()},
            "LLM_PLATFORM_CHECKPOINT_INTERVAL_SECONDS": "1",
            "LLM_PLATFORM_PAUSE_WAIT_SECONDS": "15",
            "LLM_PLATFORM_API_WORKERS": "2",
            # The small disk has less than the usual floor from the start.
            "LLM_PLATFORM_MIN_FREE_DISK_GB": "0.05",
            "TMPDIR": str(scratch),
        }
        self.http.close()
        self.base_url = f"http://localhost:{self.ports['api']}/api"
        self.http = httpx.Client(base_url=self.base_url, timeout=ANSWER_SECONDS)

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
        self.add_controller()
        return time.monotonic() - started

    def add_controller(self) -> None:
        """Start a second controller beside the platform's own, as on another machine; it ends with the platform."""
        first = self.part("controller")
        if first is None or (self._second_controller is not None and self._second_controller.poll() is None):
            return
        self._second_controller = subprocess.Popen(
            first.cmdline(), env=first.environ(), cwd=first.cwd(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _end_second_controller(self) -> None:
        if self._second_controller is not None:
            self._second_controller.send_signal(signal.SIGCONT)
            self._second_controller.terminate()
            self._second_controller.wait(30)
            self._second_controller = None

    def leader(self) -> psutil.Process | None:
        """Return the controller that leads, or None."""
        database = Database(self.environment.get("LLM_PLATFORM_DATABASE_URL", f"sqlite:///{self.data_dir}/platform.db"))
        try:
            with database.reading() as session:
                lease = ControllerRepository(session).lease()
        finally:
            database.close()
        pid = int(lease.holder.rsplit(":", 2)[1]) if lease is not None else None
        return psutil.Process(pid) if pid is not None and psutil.pid_exists(pid) else None

    def stuck_loops(self) -> list[str]:
        """Return the loops of the controller that do not pass, as the health check names them."""
        try:
            loops = self.http.get("/health").json()["loops"]
        except (httpx.HTTPError, ValueError, KeyError):
            return ["health does not answer"]
        return [name for name, loop in loops.items() if not loop["ok"] or loop["failures"]]

    def set_host_name(self, name: str) -> None:
        """Give the platform's own host another name, which its processes and those to come see."""
        up = self.part("up")
        if up is not None:
            command = ["nsenter", "--target", str(up.pid), "--uts", "hostname", name]
            subprocess.run(command, check=True, capture_output=True, timeout=20)

    def release(self) -> None:
        """Let go of the small disk."""
        if self.small_disk:
            _succeeds("umount", "--lazy", str(self.data_dir))

    def stop(self) -> None:
        """Press Ctrl-C; the ended process is kept in mind, so that what it left behind can be looked for."""
        self._end_second_controller()
        process = self._process
        super().stop()
        self._process = process

    def _ready(self, begins: int) -> bool:
        return any("Ready after" in line for line in self.output[begins:])

    def kill_all(self) -> None:
        """Take the power away: freeze every process of the platform, then kill them all."""
        self._second_controller = None  # it is one of the processes
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


def can_mount(folder: Path) -> bool:
    """Put a small disk of its own at `folder`; return whether this machine lets us."""
    return _succeeds("mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(folder))


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


def _is_forkserver(command: list[str]) -> bool:
    return any("multiprocessing.forkserver" in argument for argument in command)


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            continue
