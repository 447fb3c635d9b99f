"""Adapters and weights are stored once: MLflow's copies of a completed job's files become hard links to them.

Only after the job has ended: MLflow's server writes into a file that is there, and a job that registers again would
write into the adapter that is served.
"""

import filecmp
import os
import re
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from uuid import uuid4

from configs.settings import Settings
from registry.repositories.retention import RetentionRepository
from registry.tables import Model
from tasks.retention.files import BLOCK_BYTES
from tasks.retention.rule import Context, Found

LEAST_BYTES = 4096
"""Of a file that is worth a link."""
_RUN_ID = re.compile(r"^run_id: ['\"]?(\w+)['\"]?$", re.MULTILINE)


def in_mlflow(context: Context, before: datetime) -> Iterator[Found]:
    """Yield MLflow's copies of what jobs made that completed before a moment."""
    artifacts = _Artifacts(context.settings.mlflow_artifacts_dir)
    with context.database.reading() as session:
        models = RetentionRepository(session).made_before(before)
    for model in models:
        folder, run_id = _stored(context.settings, model), (model.parameters or {}).get("mlflow_run_id")
        if folder is None or run_id is None or not folder.is_dir():
            continue
        for file in sorted(folder.rglob("*")):
            if file.is_file() and file.stat().st_size >= LEAST_BYTES and file.stat().st_nlink == 1:
                for copy in artifacts.copies(run_id, file, folder):
                    yield _found(file, copy)


def _stored(settings: Settings, model: Model) -> Path | None:
    if model.adapter is not None:
        return settings.adapters_dir / model.adapter
    return settings.weights_dir / model.weights if model.weights is not None else None


class _Artifacts:
    """Files of MLflow's runs and logged models, by the run that they came from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def copies(self, run_id: str, file: Path, folder: Path) -> list[Path]:
        """Return the files of a run and its models that are what `file` is in `folder`, to the last byte."""
        name = file.relative_to(folder)
        roots = [*self._folder.glob(f"*/{run_id}/artifacts/adapter"), *self._models.get(run_id, [])]
        candidates = [path for root in roots for path in root.rglob(name.name)]
        return [path for path in candidates if path.is_file() and _same(file, path)]

    @cached_property
    def _models(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for description in self._folder.glob("*/models/*/artifacts/MLmodel"):
            match = _RUN_ID.search(description.read_text(encoding="utf-8"))
            if match is not None:
                found.setdefault(match[1], []).append(description.parent)
        return found


def _same(file: Path, copy: Path) -> bool:
    ours, theirs = file.stat(), copy.stat()
    # A link can't lead to another disk.
    comparable = ours.st_size == theirs.st_size and ours.st_dev == theirs.st_dev and ours.st_ino != theirs.st_ino
    return comparable and filecmp.cmp(file, copy, shallow=False)


def _found(file: Path, copy: Path) -> Found:
    def link() -> bool:
        if not _same(file, copy):
            return False
        beside = copy.with_name(f".{copy.name}.{uuid4().hex}")
        os.link(file, beside)
        beside.replace(copy)
        return True

    return Found(str(copy), copy.stat().st_blocks * BLOCK_BYTES, link)
