"""Watches which processes train which jobs, without asking the platform: locks and open files, as Linux shows them."""

import re
import threading
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

SAMPLE_SECONDS = 0.3
_LOCK = re.compile(r"FLOCK\s+ADVISORY\s+WRITE\s+(\d+)\s+[0-9a-f]+:[0-9a-f]+:(\d+)\s")
_TRACE = re.compile(r"/jobs/(\d+)/trace\.jsonl$")

Trainer = tuple[int, int]
"""A job and the process that trains it."""


def lock_holders(data_dir: Path) -> set[Trainer]:
    """Return the (job, process) pairs of the job locks that are held right now."""
    inodes = {file.stat().st_ino: int(file.parent.name) for file in (data_dir / "jobs").glob("*/lock")}
    held = _LOCK.findall(Path("/proc/locks").read_text())
    return {(inodes[int(inode)], int(pid)) for pid, inode in held if int(inode) in inodes}


def trace_writers(data_dir: Path) -> set[Trainer]:
    """Return the (job, process) pairs of the step traces that are open right now."""
    found = set()
    for process in Path("/proc").iterdir():
        try:
            # Every flow run is a fork of the worker's forkserver, and keeps its command line.
            if not process.name.isdigit() or b"multiprocessing.forkserver" not in (process / "cmdline").read_bytes():
                continue
            targets = [str(link.readlink()) for link in (process / "fd").iterdir()]
        except OSError:
            continue  # the process or the file was gone before it was read
        for target in targets:
            match = _TRACE.search(target)
            if match and target.startswith(f"{data_dir}/"):
                found.add((int(match[1]), int(process.name)))
    return found


def trainers(data_dir: Path) -> set[Trainer]:
    """Return who trains what, by either sign."""
    return lock_holders(data_dir) | trace_writers(data_dir)


@dataclass
class Overlap:
    """Two trainers that were there at once."""

    first_seen: float
    last_seen: float


class Observer(threading.Thread):
    """Looks every 0.3 s for two processes that train the same job, or two jobs on the device at once."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(name="observer", daemon=True)
        self._data_dir = data_dir
        self._ended = threading.Event()
        self.samples = 0
        self.busy_samples = 0
        """Samples in which a job was trained."""
        self.overlaps: dict[tuple[Trainer, Trainer], Overlap] = {}

    def run(self) -> None:
        """Sample until `end`."""
        while not self._ended.wait(SAMPLE_SECONDS):
            seen = trainers(self._data_dir)
            self.samples += 1
            self.busy_samples += bool(seen)
            if len(seen) > 1:
                # One look at all processes takes time; those of two looks were all there between the two.
                self._record(seen & trainers(self._data_dir))

    def _record(self, seen: set[Trainer]) -> None:
        now = time.monotonic()
        for pair in combinations(sorted(seen), 2):
            self.overlaps.setdefault(pair, Overlap(now, now)).last_seen = now

    def end(self) -> None:
        """Stop sampling."""
        self._ended.set()
        self.join()

    def violations(self) -> list[str]:
        """Return one sentence for each pair of trainers that were there at once."""
        lines = []
        for (one, other), overlap in self.overlaps.items():
            seconds = overlap.last_seen - overlap.first_seen + SAMPLE_SECONDS
            what = f"job {one[0]} was trained twice" if one[0] == other[0] else f"jobs {one[0]} and {other[0]} both ran"
            lines.append(f"{what} for about {seconds:.1f} s, by the processes {one[1]} and {other[1]}")
        return lines
