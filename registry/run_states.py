"""How a Prefect flow run's state reads as our status, and our status as that of an MLflow run."""

TERMINAL = ("COMPLETED", "FAILED", "CANCELLED")
UNFINISHED = ("PENDING", "RUNNING", "PAUSED")

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

# MLflow knows no pause: what waits or is paused is "scheduled" there, and the tag `job_status` has the status itself.
MLFLOW_STATUS = {
    "PENDING": "SCHEDULED",
    "RUNNING": "RUNNING",
    "PAUSED": "SCHEDULED",
    "COMPLETED": "FINISHED",
    "FAILED": "FAILED",
    "CANCELLED": "KILLED",
}


def status_of(state_type: str) -> str:
    """Return our status for a Prefect state type such as `SCHEDULED`."""
    return _STATUS_OF_STATE_TYPE[state_type]
