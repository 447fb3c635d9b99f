"""Processes that fetch a model, and the asking side: each can be ended, as no time limit of a library holds for all.

They write `{"folder": …}` or `{"error": "…"}`, and end when the process that asks does.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

STALL_SECONDS = 120.0
POLL_SECONDS = 0.5


class FetchError(Exception):
    """The process could not do it, or was ended; the message says why, in a clause."""


class Stall:
    """Watches whether a process still writes anything."""

    def __init__(self, pid: int, seconds: float = STALL_SECONDS) -> None:
        self._pid = pid
        self.seconds = seconds
        self._written, self._since = -1, time.monotonic()

    def has_stalled(self) -> bool:
        """Return whether the process has written nothing for so long."""
        written = _written_bytes(self._pid)
        if written != self._written:
            self._written, self._since = written, time.monotonic()
        return time.monotonic() - self._since > self.seconds


def fetched_by(module: str, argument: str, stall_seconds: float, require_room: Callable[[], None]) -> Path:
    """Run `python -m MODULE ARGUMENT` and return the folder that it names.

    `require_room` is called again and again, and raises where the disk gets full. Raises `FetchError`.
    """
    command = [sys.executable, "-m", module, argument]
    # Its input is a pipe that ends when this process does, and the child with it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        stall = Stall(process.pid, stall_seconds)
        try:
            while True:
                try:
                    process.wait(POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    if stall.has_stalled():
                        raise FetchError(f"nothing of it has come for {stall_seconds:g} s") from None
                    require_room()
        finally:
            process.kill()
        assert process.stdout is not None
        output = process.stdout.read()
    try:
        found = json.loads(output)
    except ValueError as error:
        raise FetchError(f"its process ended with {process.returncode}") from error
    if "error" in found:
        raise FetchError(found["error"])
    return Path(found["folder"])


def answer(fetch: Callable[[], Path | str]) -> NoReturn:
    """Tell the process that asked which folder `fetch` returns, or its error, and end this one."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        found = {"folder": str(fetch())}
    except Exception as error:  # noqa: BLE001 - the process's edge: whatever it is, the parent is told
        found = {"error": first_line(error)}
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)


def first_line(error: BaseException) -> str:
    """Return the start of a library's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _written_bytes(pid: int) -> int:
    """Return how much the process has written so far, to files and pipes; 0 where that can't be told."""
    try:
        fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        return int(fields["wchar"])
    except (OSError, KeyError, ValueError):
        return 0
