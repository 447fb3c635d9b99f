"""Whether the process that works on a job or an evaluation is still there, and what the kernel did to it.

An attempt lives as long as it renews its lease, wherever it runs (docs/decisions/0024-leases.md).
"""

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from registry.tables import FlowBacked

LEASE_SECONDS = 30.0
"""An attempt that has not renewed its lease for so long is dead."""
LONGEST_BLIND_SECONDS = 10.0
"""How much of the time between two looks counts at most: while nobody could look, nobody could renew either."""
_KERNEL_COUNTS = Path("/proc/vmstat")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
_STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


def machine() -> str | None:
    """Return a name of what process ids count in: one boot of a machine, one container of it; None if it has none.

    Not the host's name, which a person may change while a job runs, and which two containers may share.
    """
    try:
        return f"{_BOOT_ID.read_text().strip()} {_PID_NAMESPACE.readlink()}"
    except OSError:
        return None


def process_started(pid: int) -> int | None:
    """Return when a process began, in clock ticks since the machine did; None if there is none, or none can be told.

    Not psutil's creation time: that is of the day's clock, which may jump.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the process's name in brackets, which may hold spaces; the start is the 22nd.
    return int(status.rpartition(")")[2].split()[19])


def oom_kills() -> int | None:
    """Return how many processes the kernel has killed for lack of memory since it started; None where it won't say."""
    try:
        found = re.search(r"^oom_kill (\d+)$", _KERNEL_COUNTS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def killed_for_memory_since(record: FlowBacked) -> bool:
    """Return whether the kernel of this machine has killed for memory since the record's newest attempt began here."""
    before, now = record.attempt_oom_kills, oom_kills()
    if before is None or now is None or not _is_here(record):
        return False
    return now > before


def attempt_memory(record: FlowBacked) -> int:
    """Return the bytes that the process of the record's newest attempt has to itself; 0 if it is not here."""
    if record.attempt_pid is None or not _is_here(record) or _process_status(record) is None:
        return 0
    try:
        return int(psutil.Process(record.attempt_pid).memory_full_info().uss)
    except psutil.Error:
        return 0


class LeaseObserver:
    """Watches leases from one process, by its own clock alone: no two machines' clocks are ever compared."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()

    def is_alive(self, record: FlowBacked) -> bool:
        """Return whether the record's newest attempt may still hold the device.

        A process of this machine is looked at: one that is gone is dead at once, and one that runs is not, though it
        could not write for a while. Any other is alive for as long as its lease is renewed under this observer's eyes.
        """
        if record.attempt_started_at is None:
            return False
        if _is_here(record):
            status = _process_status(record)
            if status is None or status == psutil.STATUS_ZOMBIE:
                return False
            if status not in _STOPPED:
                return True
        if record.attempt_ended_at is not None:
            with self._lock:
                self._seen.pop(record.uid, None)
            return False
        return self._unrenewed_seconds(record) < LEASE_SECONDS

    def _unrenewed_seconds(self, record: FlowBacked) -> float:
        lease, now = (record.attempt, record.attempt_seen_at), self._clock()
        with self._lock:
            seen = self._seen.get(record.uid)
            if seen is None or seen.lease != lease:
                self._seen[record.uid] = _Seen(lease, now)
                return 0.0
            seen.unrenewed += min(now - seen.looked_at, LONGEST_BLIND_SECONDS)
            seen.looked_at = now
            return seen.unrenewed


class _Seen:
    """A lease as it was last seen, and for how long it has not changed."""

    def __init__(self, lease: object, looked_at: float) -> None:
        self.lease = lease
        self.looked_at = looked_at
        self.unrenewed = 0.0


_observer = LeaseObserver()
attempt_is_alive = _observer.is_alive
"""This process's own observer: what it has seen of a lease counts wherever in the process it is asked."""


def _is_here(record: FlowBacked) -> bool:
    return record.attempt_machine is not None and record.attempt_machine == machine()


def _process_status(record: FlowBacked) -> str | None:
    """Return what the newest attempt's process, which began on this machine, does; None if it is gone."""
    pid = record.attempt_pid
    if pid is None or process_started(pid) != record.attempt_process_started:
        return None
    try:
        return str(psutil.Process(pid).status())
    except psutil.NoSuchProcess:
        return None
