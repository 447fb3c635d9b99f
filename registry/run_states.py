"""How a Prefect flow run's state reads as the status of a job or an evaluation."""

TERMINAL = ("COMPLETED", "FAILED", "CANCELLED")

_STATUS_OF_STATE_TYPE = {
    "SCHEDULED": "PENDING",
    "PENDING": "PENDING",
    "RUNNING": "RUNNING",
    # The process is still there, with the device in its hands, until Prefect says CANCELLED.
    "CANCELLING": "RUNNING",
    "PAUSED": "PAUSED",
    "COMPLETED": "COMPLETED",
    "FAILED": "FAILED",
    "CRASHED": "FAILED",
    "CANCELLED": "CANCELLED",
}


def status_of(state_type: str) -> str:
    """Return our status for a Prefect state type such as `SCHEDULED`."""
    return _STATUS_OF_STATE_TYPE[state_type]
