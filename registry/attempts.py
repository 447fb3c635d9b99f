"""Whether the process that works on a training job is still there."""

import socket
from datetime import UTC

import psutil

from registry.tables import TrainingJob


def attempt_is_alive(job: TrainingJob) -> bool:
    """Return whether the job's newest attempt may still hold the device.

    On this host the process itself is looked at; of another host only what it recorded is known.
    """
    if job.attempt_started_at is None or job.attempt_pid is None:
        return False
    if job.attempt_host != socket.gethostname():
        return job.attempt_ended_at is None
    try:
        process = psutil.Process(job.attempt_pid)
        # A process that is younger than the attempt only has its number.
        started = process.create_time() <= job.attempt_started_at.replace(tzinfo=UTC).timestamp() + 1
        return started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
