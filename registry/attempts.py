"""Whether the process that works on a job or an evaluation is still there."""

import socket
from datetime import UTC

import psutil

from registry.tables import FlowBacked


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
