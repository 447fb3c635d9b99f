"""Whether the process that works on a job or an evaluation is still there, and what the kernel did to it."""

import re
import socket
from datetime import UTC
from pathlib import Path

import psutil

from registry.tables import FlowBacked

_KERNEL_COUNTS = Path("/proc/vmstat")


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
    if before is None or now is None or record.attempt_host != socket.gethostname():
        return False
    # Fewer than before: the machine has started anew, and its count with it.
    return now > before


def attempt_memory(record: FlowBacked) -> int:
    """Return the bytes that the process of the record's newest attempt has to itself; 0 if it is not on this host."""
    if record.attempt_host != socket.gethostname() or not attempt_is_alive(record):
        return 0
    try:
        return int(psutil.Process(record.attempt_pid).memory_full_info().uss)
    except psutil.Error:
        return 0


def attempt_is_alive(record: FlowBacked) -> bool:
    """Return whether the record's newest attempt may still hold the device.

    On this host the process itself is looked at; of another host only what it recorded is known.
    """
    if record.attempt_started_at is None or record.attempt_pid is None:
        return False
    if record.attempt_host != socket.gethostname():
        return record.attempt_ended_at is None
    try:
        process = psutil.Process(record.attempt_pid)
        # A process that is younger than the attempt only has its number.
        started = process.create_time() <= record.attempt_started_at.replace(tzinfo=UTC).timestamp() + 1
        return started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
