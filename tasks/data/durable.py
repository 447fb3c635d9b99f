"""Folders that appear whole or not at all, and outlive a power cut."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path


class BuildingFolder:
    """A temporary folder in `parent` that gets its name when all that is in it is on the disk.

    Those that killed processes have left behind are cleared when a new one is made.
    """

    def __init__(self, parent: Path, prefix: str) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        # A folder's maker holds a lock on it, which the kernel takes from a process that dies. The lock on `parent`
        # keeps others from taking a folder for abandoned before its maker has locked it.
        endpoint = _lock(parent)
        try:
            for other in parent.glob(f"{prefix}.building-*"):
                _clear_if_abandoned(other)
            self.path = Path(tempfile.mkdtemp(prefix=f"{prefix}.building-", dir=parent))
            self._claim: int | None = _lock(self.path)
        finally:
            os.close(endpoint)

    def publish(self, folder: Path) -> None:
        """Give the folder its name, in place of one that may be there."""
        for path in (*self.path.iterdir(), self.path):
            sync(path)
        if folder.exists():
            shutil.rmtree(folder)
        self.path.rename(folder)
        sync(folder.parent)

    def close(self) -> None:
        """Remove the folder if it was not published; a second call does nothing."""
        if self._claim is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._claim)
            self._claim = None


def _lock(folder: Path, flags: int = fcntl.LOCK_EX) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, flags)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _clear_if_abandoned(folder: Path) -> None:
    try:
        claim = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # its maker lives, or has just removed it
    shutil.rmtree(folder, ignore_errors=True)
    os.close(claim)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_claimed(folder: Path) -> bool:
    """Return whether a process is building this folder now; False for a file, and for what is gone."""
    try:
        os.close(_lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
