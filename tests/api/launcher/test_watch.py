"""The watch loop over two small real servers: readiness, restart, orderly stop, and nothing left after a kill."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from api.launcher import watch
from tests.api.launcher import small_platform
from tests.api.launcher.test_preflight import free_port
from tests.small_disk import filling, small_disk

REPOSITORY = Path(__file__).parents[3]


class Up:
    """A running small platform and what it has said so far."""

    def __init__(self, folder: Path, *services: str) -> None:
        self.folder, self.services = folder, services
        folder.mkdir(exist_ok=True)
        self.output = folder.parent / f"output-{time.monotonic_ns()}.txt"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, small_platform.__file__, str(folder), *services],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )

    def wait_for(self, pattern: str, seconds: float = 30) -> re.Match[str]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := re.search(pattern, self.output.read_text()):
                return found
            time.sleep(0.05)
        raise AssertionError(f"{pattern!r} not said within {seconds} s:\n{self.output.read_text()}")

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def has_another(self, name: str, than: psutil.Process) -> bool:
        """Whether the service has a process again that answers."""
        port = dict(service.split("=") for service in self.services)[name]
        with suppress(OSError, LookupError), socket.create_connection(("127.0.0.1", int(port)), timeout=5):
            return self.service(name) != than
        return False

    def service(self, name: str) -> psutil.Process:
        """The process of a service, found by its port."""
        port = dict(service.split("=") for service in self.services)[name]
        for process in self.family():
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile, or nobody has asked yet how it did
                if process.cmdline()[-1:] == [port]:
                    return process
        raise LookupError(f"there is no process of {name}")


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; an ended one may stay a zombie until its new parent looks."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def up(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Up]:
    running = Up(tmp_path / "data", f"one={free_port()}", f"two={free_port()}", *getattr(request, "param", []))
    try:
        running.wait_for("All ready")
        yield running
    finally:
        if running.process.poll() is None:
            family = running.family()
            running.process.kill()
            running.process.wait()
            psutil.wait_procs(family, timeout=20)


def test_each_service_is_said_to_be_ready_and_a_killed_one_is_restarted(up: Up):
    said = up.output.read_text()
    assert re.search(r"^one ready after \d+\.\d s$", said, re.MULTILINE)
    assert re.search(r"^two ready after \d+\.\d s$", said, re.MULTILINE)
    killed = up.service("one")
    killed.kill()
    restarted = up.wait_for(r"one died \(killed by SIGKILL\), restarted \(pid (\d+)\)")
    up.wait_for("one ready again after")
    assert int(restarted[1]) == up.service("one").pid != killed.pid


@pytest.mark.parametrize("up", [[f"parent={free_port()}"]], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_every_process_and_says_so(up: Up, number: signal.Signals):
    family = up.family()
    assert len(family) == 5  # the supervisor, three servers, a child of one
    up.process.send_signal(number)
    assert up.process.wait(timeout=20) == 0
    assert alive(family) == []
    up.wait_for(r"Stopped")


def test_killing_it_takes_everything_down_and_it_can_start_again(up: Up):
    servers = [up.service("one"), up.service("two")]
    up.process.kill()
    again = Up(up.folder, *up.services)  # at once, while the old services are still stopping
    try:
        again.wait_for("All ready")
        up.process.wait()
        assert alive(servers) == []
    finally:
        again.process.terminate()
        assert again.process.wait(timeout=20) == 0


def test_a_killed_supervisor_takes_its_services_along_and_is_reported(up: Up):
    servers = [up.service("one"), up.service("two")]
    psutil.Process(up.process.pid).children()[0].kill()
    assert up.process.wait(timeout=20) == 1
    up.wait_for(r"The process supervisor ended \(exit code -9\)")
    assert alive(servers) == []


def test_a_full_disk_ends_nothing(tmp_path: Path):
    """Neither log nor complaint of the supervisor can be written; a service that dies is restarted all the same."""
    folder = tmp_path / "data"
    with small_disk(folder, 2**20):
        up = Up(folder, f"one={free_port()}", f"two={free_port()}")
        try:
            up.wait_for("All ready")
            with filling(folder) as fill:
                fill(0)
                for _ in range(3):
                    killed = up.service("one")
                    killed.kill()
                    wait_until(partial(up.has_another, "one", killed))
            up.service("two").kill()
            up.wait_for(r"two died \(killed by SIGKILL\), restarted \(pid (\d+)\)")
        finally:
            up.process.send_signal(signal.SIGTERM)
            assert up.process.wait(30) == 0
    assert "no process is left" in up.output.read_text()


def test_a_second_platform_on_the_same_folder_is_refused(up: Up):
    second = Up(up.folder, *up.services)
    assert second.process.wait(timeout=20) == 1
    second.wait_for(rf"already running on this data folder \(process {up.process.pid}\)")


def test_a_service_that_never_starts_is_reported_with_its_log_and_ends_the_platform(tmp_path: Path):
    up = Up(tmp_path / "data", f"one={free_port()}", "broken=0")
    assert up.process.wait(timeout=60) == 1
    said = up.output.read_text()
    assert f"broken could not be kept running (exit code 3); the end of {tmp_path}/data/logs/broken.log:" in said
    assert "    no such weights" in said
    assert "Stopped" in said


def test_the_supervisors_log_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "LARGEST_LOG_BYTES", 1000)
    path = tmp_path / "supervisord.log"
    path.touch()
    seen: list[str] = []
    largest = 0
    with path.open("ab", buffering=0) as supervisor, path.open() as log:
        for number in range(500):
            supervisor.write(f"line {number}\n".encode())
            seen += watch._complete_lines(log)
            largest = max(largest, path.stat().st_size)
    assert seen == [f"line {number}\n" for number in range(500)]
    assert largest < 1100
