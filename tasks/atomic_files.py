"""Files and folders that appear complete or not at all, and survive a power cut: written aside, synced, renamed."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = (os.strerror(errno.ENOSPC), "database or disk is full")
"""How libraries say it that keep the system's text alone, PostgreSQL among them; and SQLite."""


def no_space_left(error: BaseException | None) -> bool:
    """Return whether an error, or what caused it, says that a disk is full."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number in _FULL or any(text in str(error) for text in _FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[str]]:
    """Yield a UTF-8 text file that replaces `path` when the block ends; if it raises, `path` stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        temporary = Path(file.name)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink()
            raise
    sync(path.parent)


def publish_folder(staging: Path, folder: Path) -> None:
    """Rename `staging`, whose files are synced first, to `folder` beside it, in place of one that may be there.

    A folder can't be renamed onto another: the old one is renamed to `<name>.replaced` until the new one is in place.
    """
    sync_folder(staging)
    replaced = folder.with_name(f"{folder.name}.replaced")
    if folder.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
    staging.rename(folder)
    sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


class StagingFolder:
    """A temporary folder in `parent` that `publish` renames into place when everything in it is on disk.

    Those that killed processes have left behind are removed when a new one is made.
    """

    def __init__(self, parent: Path, prefix: str) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        # A folder's owner holds a lock on it, which the kernel releases when the process dies. The lock on `parent`
        # keeps others from taking a folder for abandoned before its owner has locked it.
        parent_lock = _lock(parent)
        try:
            for other in parent.glob(f"{prefix}.building-*"):
                _remove_if_abandoned(other)
            self.path = Path(tempfile.mkdtemp(prefix=f"{prefix}.building-", dir=parent))
            self._own_lock: int | None = _lock(self.path)
        finally:
            os.close(parent_lock)

    def publish(self, folder: Path) -> None:
        """Rename the folder to `folder`, in place of one that may be there."""
        publish_folder(self.path, folder)

    def close(self) -> None:
        """Remove the folder if it was not published; a second call does nothing."""
        if self._own_lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._own_lock)
            self._own_lock = None


def is_claimed(folder: Path) -> bool:
    """Return whether a process is building this folder now; False for a file, and for what is gone."""
    try:
        os.close(_lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def make_readable(folder: Path) -> None:
    """Let everybody read a folder's files: safetensors writes such that only their owner can read."""
    for file in folder.iterdir():
        file.chmod(0o644)


def sync_folder(folder: Path) -> None:
    """Wait until a folder, with all that is in it, is on disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(folder: Path, flags: int = fcntl.LOCK_EX) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, flags)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_if_abandoned(folder: Path) -> None:
    try:
        lock = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # its owner lives, or has just removed it
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
