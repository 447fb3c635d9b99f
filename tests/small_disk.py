"""A small real file system that can be filled."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Put a file system of so many bytes at a folder; the test is skipped where none can be mounted."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a file system can't be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def filling(disk: Path) -> Iterator[Callable[[int], None]]:
    """Yield what fills the disk until so many bytes are free; at the end the space is given back."""
    file = disk / "ballast"

    def fill(free: int) -> None:
        file.unlink(missing_ok=True)
        block = b"x" * 4096
        with file.open("wb", buffering=0) as content:
            while (status := os.statvfs(disk)).f_bavail * status.f_frsize > free:
                content.write(block)

    try:
        yield fill
    finally:
        file.unlink(missing_ok=True)
