"""This machine's free memory, within a container's cgroup limits; needs no torch."""

import subprocess
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import psutil

_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# A control group's limit, what is used of it, and of that the cached files, which go when memory is asked for.
_VERSION_2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_GPU_QUERY = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")


def free_memory() -> int:
    """Return the bytes that can still be taken: the machine's, or what is left of a container's limit if less."""
    return min([psutil.virtual_memory().available, *left_in_groups(_GROUPS, _OWN_GROUPS)])


def left_in_groups(root: Path, own_groups: Path) -> Iterator[int]:
    """Yield the bytes left of each limit on this process: of its control groups, and of those around them.

    `root` is where groups are mounted, `own_groups` the file that names the process's own.
    """
    try:
        lines = own_groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top, files = (root, _VERSION_2) if controllers == "" else (root / controllers, _VERSION_1)
            own = top / path.lstrip("/")
            for folder in (own, *own.parents[: len(own.relative_to(top).parts)]):
                yield from _left_in(folder, files)


def _left_in(folder: Path, files: tuple[str, str, tuple[str, str]]) -> Iterator[int]:
    limit, used, cached = files
    try:
        counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        # Without a limit the file says "max", which is no number.
        yield int((folder / limit).read_text()) - int((folder / used).read_text()) + sum(int(counts[n]) for n in cached)
    except (OSError, ValueError, KeyError):
        return


@lru_cache
def gpus() -> list[int]:
    """Return the memory in bytes, free or not, of each NVIDIA GPU; nothing without one, or without its tool."""
    try:
        answer = subprocess.run(_GPU_QUERY, capture_output=True, text=True, timeout=30, check=True)
        return [int(mebibytes) * 2**20 for mebibytes in answer.stdout.split()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
