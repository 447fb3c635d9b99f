"""The floor of free disk below which no new work is accepted; what runs, reads, and deletions go on."""

import shutil

from api.errors import DiskFull
from configs.settings import Settings

GIGABYTE = 10**9


def require_disk(settings: Settings, more_bytes: int = 0) -> None:
    """Raise `DiskFull` unless `min_free_disk_gb` of the data folder's disk would be free after `more_bytes` more."""
    free = shutil.disk_usage(settings.data_dir).free
    needed = settings.min_free_disk_gb * GIGABYTE + more_bytes
    if free >= needed:
        return
    raise DiskFull(
        f"The disk of {settings.data_dir} has {free / GIGABYTE:.2f} GB free, but new work needs "
        f"{needed / GIGABYTE:.2f} GB (LLM_PLATFORM_MIN_FREE_DISK_GB is {settings.min_free_disk_gb:g}): delete models, "
        "data sets or jobs, run `llm-platform gc`, or free space otherwise.",
        free_gb=round(free / GIGABYTE, 3),
        needed_gb=round(needed / GIGABYTE, 3),
    )
