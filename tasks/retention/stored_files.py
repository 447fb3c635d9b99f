"""Adapters, weights, data sets, samples and uploads that no record refers to, and what unfinished work left."""

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from registry.repositories.retention import RetentionRepository
from registry.run_states import TERMINAL
from registry.tables import TrainingJob
from tasks.atomic_files import is_claimed
from tasks.job.folder import JobFolder
from tasks.retention.files import REMOVING, abandoned, entries, found
from tasks.retention.rule import Context, Found
from tasks.training.checkpoint_list import folder_name, saved_checkpoints

_UID = re.compile(r"[0-9a-f]{32}")
_CONTENT = re.compile(r"[0-9a-f]{64}")
_SERVED = re.compile(r"(?P<uid>[0-9a-f]{32})-(?P<checkpoint>step-\d{8,})-[0-9a-f]+")
_BUILDING = re.compile(r".+\.building(-.+)?")
_TEMPORARY = re.compile(r"tmp[a-z0-9_]{8}")
"""How Python's `tempfile` names what nobody named."""

References = Callable[[RetentionRepository], set[str]]


def adapters(context: Context, before: datetime) -> Iterator[Found]:
    """Yield adapter folders that no model and no job needs."""
    yield from _unreferenced(context, before, context.settings.adapters_dir, RetentionRepository.adapters_in_use)


def weights(context: Context, before: datetime) -> Iterator[Found]:
    """Yield folders of full weights that no model and no job needs."""
    yield from _unreferenced(context, before, context.settings.weights_dir, RetentionRepository.weights_in_use)


def served_checkpoints(context: Context, before: datetime) -> Iterator[Found]:
    """Yield adapter folders that checkpoints were served from which are gone; they are made again where one is not."""
    with context.database.reading() as session:
        jobs = {job.uid: job.id for job in RetentionRepository(session).jobs()}
    for folder in entries(context.settings.adapters_dir):
        match = _SERVED.fullmatch(folder.name)
        if match is None or context.is_loaded(str(folder)) or not abandoned(context, folder, before):
            continue
        if match["checkpoint"] not in _kept(context, jobs.get(match["uid"])):
            yield found(folder, lambda folder=folder: not context.is_loaded(str(folder)))  # type: ignore[misc]


def datasets(context: Context, before: datetime) -> Iterator[Found]:
    """Yield rows, with their tokens, of data sets that are gone."""
    with context.database.reading() as session:
        kept = RetentionRepository(session).dataset_contents_in_use()
    for folder in entries(context.settings.datasets_dir):
        if _CONTENT.fullmatch(folder.name) and folder.name not in kept and abandoned(context, folder, before):
            yield found(folder, _still_unused(context, folder.name))


def uploads(context: Context, before: datetime) -> Iterator[Found]:
    """Yield uploaded files that no data set waits for."""
    with context.database.reading() as session:
        waiting = RetentionRepository(session).uploads_in_use()
    for file in entries(context.settings.uploads_dir):
        if _UID.fullmatch(file.name) and file.name not in waiting and abandoned(context, file, before):
            yield found(file)


def samples(context: Context, before: datetime) -> Iterator[Found]:
    """Yield sample files of evaluations that are gone."""
    with context.database.reading() as session:
        known = RetentionRepository(session).evaluation_uids()
    for file in entries(context.settings.evaluations_dir):
        is_samples = file.suffix == ".jsonl" and _UID.fullmatch(file.stem)
        if is_samples and file.stem not in known and abandoned(context, file, before):
            yield found(file)


def unfinished(context: Context, before: datetime) -> Iterator[Found]:
    """Yield folders and files that a process began to write and never named: it died, or the disk was full."""
    settings = context.settings
    shared = (settings.adapters_dir, settings.weights_dir, settings.datasets_dir, settings.evaluations_dir)
    with context.database.reading() as session:
        jobs = RetentionRepository(session).jobs()
    working = {job.uid for job in jobs if not _has_ended(job)}
    own = [JobFolder(settings.jobs_dir, job.id).path for job in jobs if _has_ended(job)]
    for folder in (*shared, *(one for one in entries(settings.datasets_dir) if _CONTENT.fullmatch(one.name)), *own):
        for path in entries(folder):
            left = _BUILDING.fullmatch(path.name) or _TEMPORARY.fullmatch(path.name) or REMOVING in path.name
            if not left or path.name.partition(".")[0] in working or not abandoned(context, path, before):
                continue
            yield found(path, lambda path=path: not is_claimed(path))  # type: ignore[misc]


def _unreferenced(context: Context, before: datetime, folder: Path, references: References) -> Iterator[Found]:
    def still(name: str) -> bool:
        with context.database.reading() as session:
            return name not in references(RetentionRepository(session))

    with context.database.reading() as session:
        kept = references(RetentionRepository(session))
    for path in entries(folder):
        if not _UID.fullmatch(path.name) or path.name in kept or context.is_loaded(str(path)):
            continue
        if abandoned(context, path, before):
            yield found(path, lambda name=path.name: still(name))  # type: ignore[misc]


def _still_unused(context: Context, content: str) -> Callable[[], bool]:
    def still() -> bool:
        # The same rows may be uploaded again at this moment, and be found: then they are being checked.
        with context.database.transaction() as session:
            retention = RetentionRepository(session)
            return not retention.uploads_in_use() and content not in retention.dataset_contents_in_use()

    return still


def _kept(context: Context, job_id: int | None) -> set[str]:
    if job_id is None:
        return set()
    checkpoints = JobFolder(context.settings.jobs_dir, job_id).checkpoints
    return {folder_name(one.step) for one in saved_checkpoints(checkpoints)}


def _has_ended(job: TrainingJob) -> bool:
    return job.status in TERMINAL
