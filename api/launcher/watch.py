"""The watch loop of `llm-platform up`: starts the services, reports what happens to them, and stops them all."""

import os
import queue
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

from api.launcher import supervisord
from api.launcher.services import Service
from api.launcher.supervisord import Event, Exited, Spawned

LARGEST_LOG_BYTES = 10 * 2**20
"""Of the supervisor's log, which is emptied then: a service that dies again and again would fill the disk by it."""
ROUND_SECONDS = 0.1
"""How often the loop looks while a service is starting or stopping."""
IDLE_ROUND_SECONDS = 0.5
"""How often it looks once all are ready; a signal ends the wait at once."""
PROBE_SECONDS = 0.15
STOP_SECONDS = 15.0
"""Longest orderly stop; what is left then is killed."""
ORPHAN_SECONDS = 2.0
"""What a service itself started and left behind gets this long after the supervisor ended."""
START_ATTEMPTS = 4
"""Deaths of a service that never was ready, after which it is given up."""
LOG_LINES = 20


@dataclass
class _State:
    """What is known of one service."""

    started: float = 0.0
    death: str | None = None
    attempts: int = 0
    ever_ready: bool = False
    probe: threading.Event = field(default_factory=threading.Event)
    """Set to end the probe of an earlier process."""


class Watch:
    """Runs the services until a signal comes or one of them can't be kept running."""

    def __init__(
        self,
        services: Sequence[Service],
        run_dir: Path,
        logs_dir: Path,
        say: Callable[[str], None],
        announce: Callable[[float], None],
    ) -> None:
        """`say` gets one line per event; `announce` the seconds it took until all services were ready."""
        self._services = {service.name: service for service in services}
        self._run_dir, self._logs_dir = run_dir, logs_dir
        self._say, self._announce = say, announce
        self._states = {service.name: _State() for service in services}
        self._ready: queue.SimpleQueue[tuple[str, threading.Event]] = queue.SimpleQueue()
        self._signals: list[int] = []
        self._wakeup, self._wakeup_writer = socket.socketpair()
        self._wakeup_writer.setblocking(False)
        self._starting = set(self._services)

    def run(self, environment: Mapping[str, str], lock: IO[str]) -> int:
        """Start, watch and stop everything; returns the exit code: 0 after a signal, 1 after a failure."""
        begun = time.monotonic()
        with self._signals_noted():
            supervisor = supervisord.start(
                list(self._services.values()), self._run_dir, self._logs_dir, environment, lock
            )
            code = self._watch(supervisor, begun)
            return max(code, self._stop(supervisor))

    def _watch(self, supervisor: subprocess.Popen[bytes], begun: float) -> int:
        with (self._run_dir / "supervisord.log").open() as log:
            while not self._signals:
                for event in supervisord.read_events(_complete_lines(log)):
                    if self._note(event) is not None:
                        return 1
                while not self._ready.empty():
                    name, probe = self._ready.get()
                    if probe.is_set():
                        continue  # the process that was ready has ended meanwhile
                    self._note_ready(name)
                    if not self._starting and begun:
                        self._announce(time.monotonic() - begun)
                        begun = 0.0
                if supervisor.poll() is not None:
                    self._say(
                        f"The process supervisor ended (exit code {supervisor.returncode}): "
                        f"see {self._logs_dir / 'supervisord.log'}."
                    )
                    return 1
                # Python writes a byte there for each signal that it handles.
                select.select([self._wakeup], [], [], ROUND_SECONDS if self._starting else IDLE_ROUND_SECONDS)
        self._say(f"{signal.Signals(self._signals[0]).name}: stopping all services ...")
        return 0

    def _note(self, event: Event) -> str | None:
        """Report what happened to a service; returns its name when it can't be kept running."""
        state = self._states[event.service]
        if isinstance(event, Spawned):
            if state.death is not None:
                self._say(f"{event.service} died ({state.death}), restarted (pid {event.pid})")
            state.started = time.monotonic()
            self._starting.add(event.service)
            state.probe = threading.Event()
            arguments = (self._services[event.service], datetime.now(UTC), state.probe)
            threading.Thread(target=self._probe, args=arguments, daemon=True).start()
            return None
        state.probe.set()
        if isinstance(event, Exited):
            state.death = event.how
            state.attempts += not state.ever_ready
            if state.attempts < START_ATTEMPTS:
                return None
        return self._give_up(event.service, state)

    def _note_ready(self, name: str) -> None:
        state = self._states[name]
        again = " again" if state.ever_ready else ""
        self._say(f"{name} ready{again} after {time.monotonic() - state.started:.1f} s")
        state.ever_ready = True
        self._starting.discard(name)

    def _give_up(self, name: str, state: _State) -> str:
        log = self._logs_dir / f"{name}.log"
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.exists() else []
        self._say(f"{name} could not be kept running ({state.death}); the end of {log}:")
        for line in lines:
            self._say(f"    {line}")
        self._say("Stopping all services ...")
        return name

    def _probe(self, service: Service, started: datetime, ended: threading.Event) -> None:
        """Report the service once it is ready, unless its process ends first (a thread: a probe may wait)."""
        while not ended.wait(PROBE_SECONDS):
            try:
                if service.ready(started):
                    self._ready.put((service.name, ended))
                    return
            except OSError:
                continue  # nothing listens yet

    def _stop(self, supervisor: subprocess.Popen[bytes]) -> int:
        """Stop every process that the supervisor started, and report whether any is left."""
        for state in self._states.values():
            state.probe.set()
        begun, noted = time.monotonic(), len(self._signals)
        deadline = begun + STOP_SECONDS
        family = _family(supervisor.pid)
        if supervisor.poll() is None:
            supervisor.send_signal(signal.SIGTERM)
        while time.monotonic() < deadline and len(self._signals) == noted:
            if supervisor.poll() is None:
                family |= _family(supervisor.pid)
            elif not _living(family):
                self._say(f"Stopped: no process is left ({time.monotonic() - begun:.1f} s).")
                return 0
            else:
                deadline = min(deadline, time.monotonic() + ORPHAN_SECONDS)
            time.sleep(ROUND_SECONDS)
        return self._kill(supervisor, _living(family))

    def _kill(self, supervisor: subprocess.Popen[bytes], remaining: list[psutil.Process]) -> int:
        for process in remaining:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        supervisor.wait()
        _, alive = psutil.wait_procs(remaining, timeout=5)
        if alive:
            self._say(f"Still running: {', '.join(str(process.pid) for process in alive)}.")
            return 1
        self._say(f"Stopped: no process is left ({len(remaining)} had to be killed).")
        return 0

    @contextmanager
    def _signals_noted(self) -> Iterator[None]:
        def note(number: int, _frame: FrameType | None) -> None:
            self._signals.append(number)

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        earlier = {number: signal.signal(number, note) for number in numbers}
        earlier_wakeup = signal.set_wakeup_fd(self._wakeup_writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(earlier_wakeup)
            self._wakeup.close()
            self._wakeup_writer.close()
            for number, handler in earlier.items():
                signal.signal(number, handler)


def _complete_lines(log: IO[str]) -> Iterator[str]:
    """Yield the lines written since the last call, leaving one that is still being written for the next."""
    while True:
        position = log.tell()
        line = log.readline()
        if not line.endswith("\n"):
            log.seek(position)
            if not line and position > LARGEST_LOG_BYTES:
                # The supervisor appends, wherever the end is; its own rotation would take the file from under us.
                os.truncate(log.name, 0)
                log.seek(0)
            return
        yield line


def _family(pid: int) -> set[psutil.Process]:
    """The process and all its descendants, in whatever session or group they are."""
    try:
        process = psutil.Process(pid)
        return {process, *process.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def _living(processes: set[psutil.Process]) -> list[psutil.Process]:
    living = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
        except psutil.NoSuchProcess:
            continue
    return living
