"""How much of the disk each kind of data takes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from configs.settings import Settings
from tasks.retention.files import BLOCK_BYTES, entries, walk

OTHER = "other"


def kinds(settings: Settings) -> Mapping[str, Sequence[Path]]:
    """Return the files and folders of each kind; what more than one has counts for the first."""
    data = settings.data_dir
    return {
        "models": [settings.models_dir],
        "adapters": [settings.adapters_dir],
        "weights": [settings.weights_dir],
        "jobs": [settings.jobs_dir],
        "datasets": [settings.datasets_dir],
        "evaluations": [settings.evaluations_dir],
        "benchmarks": [settings.benchmarks_dir],
        "mlflow": [settings.mlflow_artifacts_dir],
        "snapshots": [settings.snapshots_dir],
        "logs": [settings.logs_dir],
        "platform_database": sorted(data.glob("platform.db*")),
        "mlflow_database": sorted(data.glob("mlflow.db*")),
        "prefect_database": sorted((data / "prefect").glob("prefect.db*")),
    }


def measure(settings: Settings) -> dict[str, int]:
    """Return the bytes on the disk of each kind, and of what else is in the data folder (`other`).

    A file with several names (an adapter that MLflow has as well) counts once, for the first kind that has it.
    """
    seen: set[tuple[int, int]] = set()

    def size(path: Path) -> int:
        total = 0
        for status in walk(path):
            identity = (status.st_dev, status.st_ino)
            if identity not in seen:
                seen.add(identity)
                total += status.st_blocks * BLOCK_BYTES
        return total

    usage = {kind: sum(map(size, paths)) for kind, paths in kinds(settings).items()}
    usage[OTHER] = sum(map(size, entries(settings.data_dir)))
    return usage
