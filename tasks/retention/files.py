"""Files and folders: their size on the disk, their age, and their removal in one step."""

import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psutil

from tasks.retention.rule import YOUNGEST, Context, Found

REMOVING = ".removing-"
BLOCK_BYTES = 512
"""Unit of `st_blocks`, whatever the file system's own."""


def walk(path: Path) -> Iterator[os.stat_result]:
    """Yield the status of a file, or of all files in a folder; what vanishes meanwhile is left out."""
    try:
        if not path.is_dir() or path.is_symlink():
            yield path.lstat()
            return
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from walk(Path(entry.path))
                else:
                    yield entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return


def freed_by(path: Path) -> int:
    """Return the bytes that removing a file or folder frees: files with another name elsewhere stay."""
    return sum(status.st_blocks * BLOCK_BYTES for status in walk(path) if status.st_nlink == 1)


def touched(path: Path) -> datetime:
    """Return when a folder, or anything in it, was last written (UTC, without an offset); now if it is gone."""
    times = [status.st_mtime for status in walk(path)]
    try:
        times.append(path.lstat().st_mtime)
    except FileNotFoundError:
        return datetime.now(UTC).replace(tzinfo=None)
    return datetime.fromtimestamp(max(times), UTC).replace(tzinfo=None)


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder, by name; nothing if there is no such folder."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def abandoned(context: Context, path: Path, before: datetime) -> bool:
    """Return whether nobody has written to something since a moment, nor for an hour."""
    return touched(path) < min(before, context.now - YOUNGEST)


def remove(path: Path) -> bool:
    """Remove a file or folder; a folder disappears in one step, so that nobody reads half of it."""
    try:
        if not path.is_dir() or path.is_symlink():
            path.unlink()
            return True
        aside = path if REMOVING in path.name else path.with_name(f"{path.name}{REMOVING}{uuid4().hex}")
        path.rename(aside)
    except FileNotFoundError:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def found(path: Path, still: Callable[[], bool] = lambda: True) -> Found:
    """Return a file or folder as something that may go, if `still` says so at the moment of its removal."""
    return Found(str(path), freed_by(path), lambda: still() and remove(path))


def used_by_a_process(folder: Path) -> bool:
    """Return whether a process of this machine works in a folder, has a file of it open, or names it."""
    inside, name = f"{folder}/", str(folder)
    for process in psutil.process_iter():
        try:
            working = process.cwd()
            named = [*process.cmdline(), *process.environ().values(), *(one.path for one in process.open_files())]
        except psutil.Error:
            continue  # it has ended, or is not ours: it could not use what is
        if working == name or working.startswith(inside) or any(name in one for one in named):
            return True
    return False
