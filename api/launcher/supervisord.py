"""The process supervisor's configuration, its start, and the events in its log.

The log is read because supervisor's XML-RPC and its event listeners do not report why a process ended: a restarted one
has `exitstatus` 0, and a signal is -1. Reading it costs 3 us a round, where `getAllProcessInfo` costs 1.3 ms.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from api.launcher import launch
from api.launcher.services import Service

LONGEST_SOCKET_PATH = 100
"""The kernel takes 107 bytes, and supervisord binds to a longer name first."""
MEGABYTE = 1024**2
START_SECONDS = 5
"""A service that ends sooner failed to start, and is tried again `START_RETRIES` times."""
START_RETRIES = 3

_SPAWNED = re.compile(r"spawned: '(?P<service>[^']+)' with pid (?P<pid>\d+)")
_EXITED = re.compile(r"exited: (?P<service>\S+) \((?P<how>.+); (?:not )?expected\)")
_GAVE_UP = re.compile(r"gave up: (?P<service>\S+) entered FATAL state")


@dataclass(frozen=True)
class Spawned:
    """A service's process was started."""

    service: str
    pid: int


@dataclass(frozen=True)
class Exited:
    """A service's process ended by itself."""

    service: str
    how: str
    """`exit code 1` or `killed by SIGKILL`."""


@dataclass(frozen=True)
class GaveUp:
    """A service failed to start too often."""

    service: str


Event = Spawned | Exited | GaveUp


def configuration(services: Sequence[Service], run_dir: Path, logs_dir: Path) -> str:
    """Return a supervisord.conf that starts every service at once, restarts those that end, and rotates their logs."""
    sections = [
        "[supervisord]",
        "nodaemon = true",
        "silent = true",
        f"logfile = {_escaped(str(run_dir / 'supervisord.log'))}",
        "logfile_maxbytes = 0",
        f"pidfile = {_escaped(str(run_dir / 'supervisord.pid'))}",
        *_control_socket(run_dir / "supervisor.sock"),
    ]
    for service in services:
        command = [*_launcher(service.orphan_signal, "leader"), *service.command]
        sections += [
            "",
            f"[program:{service.name}]",
            f"command = {_escaped(shlex.join(command))}",
            "autorestart = true",
            f"startsecs = {START_SECONDS}",
            f"startretries = {START_RETRIES}",
            f"stopwaitsecs = {service.stop_seconds}",
            "killasgroup = true",
            "redirect_stderr = true",
            f"stdout_logfile = {_escaped(str(logs_dir / service.name))}.log",
            f"stdout_logfile_maxbytes = {10 * MEGABYTE}",
            "stdout_logfile_backups = 3",
        ]
    # Groups stop one after the other, the highest priority first; the services of a group stop together.
    for name, stops_first, priority in (("users", True, 20), ("used", False, 10)):
        members = [service.name for service in services if service.stops_first is stops_first]
        if members:
            sections += ["", f"[group:{name}]", f"programs = {','.join(members)}", f"priority = {priority}"]
    return "\n".join(sections) + "\n"


def _control_socket(path: Path) -> list[str]:
    """Let this user, and nobody else, stop and start single services: `supervisorctl -c <run_dir>/supervisord.conf`."""
    if len(str(path)) > LONGEST_SOCKET_PATH:
        return []
    return [
        "",
        "[unix_http_server]",
        f"file = {_escaped(str(path))}",
        "chmod = 0700",
        "",
        "[rpcinterface:supervisor]",
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        "",
        "[supervisorctl]",
        f"serverurl = unix://{_escaped(str(path))}",
    ]


def start(
    services: Sequence[Service], run_dir: Path, logs_dir: Path, environment: Mapping[str, str], lock: IO[str]
) -> subprocess.Popen[bytes]:
    """Start the supervisor in a session of its own, so that Ctrl-C reaches `up` alone.

    It ends, after stopping its services, when this process does. It gets the environment, not the configuration,
    because that holds passwords of databases; and the lock as its input, which it keeps open but never reads.
    """
    for folder in (run_dir, logs_dir):
        folder.mkdir(parents=True, exist_ok=True)
    (run_dir / "supervisord.log").write_bytes(b"")
    file = run_dir / "supervisord.conf"
    file.write_text(configuration(services, run_dir, logs_dir))
    command = [sys.executable, "-m", "api.launcher.supervisor_process", "-n", "-c", str(file)]
    with (logs_dir / "supervisord.log").open("wb") as output:
        return subprocess.Popen(
            [*_launcher("SIGTERM", str(os.getpid())), *command],
            stdin=lock,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=run_dir,
            env=dict(environment),
            start_new_session=True,
        )


def read_events(lines: Iterator[str]) -> Iterator[Event]:
    """Yield what the supervisor's log lines say happened to the services."""
    for line in lines:
        if found := _SPAWNED.search(line):
            yield Spawned(found["service"], int(found["pid"]))
        elif found := _EXITED.search(line):
            how = found["how"].replace("exit status", "exit code").replace("terminated by", "killed by")
            yield Exited(found["service"], how)
        elif found := _GAVE_UP.search(line):
            yield GaveUp(found["service"])


def _launcher(signal_name: str, parent: str) -> list[str]:
    return [sys.executable, "-IS", launch.__file__, signal_name, parent, "--"]


def _escaped(text: str) -> str:
    """`%` starts an expansion in the configuration."""
    return text.replace("%", "%%")
