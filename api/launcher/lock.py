"""One running platform per data folder: a lock that lives as long as its process supervisor."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

from api.launcher.preflight import PreflightError

LEFTOVER_SECONDS = 20.0
"""How long the services of a killed platform are waited for; they stop by themselves."""


@contextmanager
def instance_lock(file: Path, say: Callable[[str], None]) -> Iterator[IO[str]]:
    """Hold the data folder's lock; yields the locked file, for the process supervisor to inherit.

    Raises PreflightError when another platform runs on the folder. One that was killed still holds the lock
    through its supervisor, which is stopping its services: it is waited for.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as handle:
        _acquire(handle, say)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield handle


def _acquire(handle: IO[str], say: Callable[[str], None]) -> None:
    deadline = None
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            owner = handle.read().strip()
            if owner.isdigit() and _alive(int(owner)):
                raise PreflightError(
                    f"The platform is already running on this data folder (process {owner}): stop it with "
                    f"`kill {owner}`, or set LLM_PLATFORM_DATA_DIR to another folder."
                ) from None
            if deadline is None:
                say("Waiting for the processes of a platform that was killed to stop ...")
                deadline = time.monotonic() + LEFTOVER_SECONDS
            elif time.monotonic() > deadline:
                raise PreflightError(
                    "The processes of an earlier platform on this data folder do not stop: see them with "
                    "`ps -ef | grep supervisord` and end them."
                ) from None
            time.sleep(0.2)
        else:
            return


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
