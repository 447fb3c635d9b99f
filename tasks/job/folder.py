"""Where a training job keeps what on disk, for the trainer that writes it and the endpoints that show it."""

from pathlib import Path


class JobFolder:
    """A job's working folder; deleting the job deletes it."""

    def __init__(self, jobs_dir: Path, job_id: int) -> None:
        self.path = jobs_dir / str(job_id)

    @property
    def checkpoints(self) -> Path:
        """Folder of the job's checkpoints."""
        return self.path / "checkpoints"

    @property
    def untrained_adapter(self) -> Path:
        """The adapter as it was before the first step, in peft's format: the frame for a checkpoint's weights."""
        return self.path / "untrained"

    @property
    def trace(self) -> Path:
        """The job's own record of its steps."""
        return self.path / "trace.jsonl"


def served_prefix(job_uid: str) -> str:
    """Return how the folders begin, among the adapters, that checkpoints of a job are served from."""
    return f"{job_uid}-"
