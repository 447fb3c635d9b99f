"""Makes a backup while the platform runs: three databases and the files that their rows name, fit for each other.

The order makes it so. Files first: what is deleted meanwhile is there already. Then the databases: Prefect's, ours,
MLflow's, so that ours never names an MLflow run that is not there, and knows every run of Prefect's. Then the files
that are new. Checkpoints are copied before the trace of steps that reaches at least as far.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session

from configs.settings import Settings
from registry.backup_files import (
    DATABASES,
    FILES,
    FOLDERS,
    BackupError,
    Manifest,
    copy_new,
    files_below,
    sha256,
    sync_folders,
)
from registry.clock import timestamp, utcnow
from registry.stores import Store, platform_stores
from registry.tables import Dataset, Model, TrainingJob

ATTEMPTS = 3
"""How often the databases are copied anew when a row names a file that was made and deleted meanwhile."""


def make_backup(
    settings: Settings, target: Path, platform_version: str, previous: Path | None, say: Callable[[str], None]
) -> Manifest:
    """Write a backup as the folder `target`, which appears complete or not at all.

    Files that are in the backup `previous` become hard links to it. Raises BackupError and StoreError.
    """
    stores = platform_stores(settings)
    _check(stores[0], settings.data_dir, target, previous)
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / DATABASES).mkdir(parents=True)
    # Webhooks' secrets are in it.
    partial.chmod(0o700)
    started = utcnow()
    earlier = None if previous is None else previous / FILES
    _copy_files(settings.data_dir, partial / FILES, earlier)
    for left in reversed(range(ATTEMPTS)):
        missing = _copy_databases(settings.data_dir, stores, partial, earlier)
        if not missing or not left:
            break
    for name in missing:
        say(f"{name} is missing in the data folder itself: what uses it will not work after a restore either.")
    manifest = Manifest(
        platform_version=platform_version,
        created_at=timestamp(started),
        databases=_describe(stores, partial),
        files={name: sha256(partial / name) for name in sorted(files_below(partial))},
    )
    manifest.write(partial)
    sync_folders(partial)
    partial.rename(target)
    return manifest


def _check(platform: Store, data_dir: Path, target: Path, previous: Path | None) -> None:
    if target.exists():
        raise BackupError(f"{target} exists already: name a folder that does not.")
    if any((data_dir / name) in target.absolute().parents for name in FOLDERS):
        raise BackupError(f"{target} lies in a folder that is backed up: name one elsewhere.")
    present, known = platform.revision(), platform.known()
    if present is None:
        raise BackupError(f"There is nothing to back up: {platform.file or 'the database'} has no tables.")
    if present != known.head:
        raise BackupError(
            f"The platform's database is at schema version {present!r}, but this version of the software works with "
            f"{known.head!r}: start the platform once, which upgrades it, or make the backup with the software before."
        )
    if previous is not None:
        Manifest.read(previous)


def _copy_files(data_dir: Path, target: Path, previous: Path | None) -> None:
    for name in FOLDERS:
        copy_new(data_dir / name, target / name, None if previous is None else previous / name)


def _copy_databases(data_dir: Path, stores: tuple[Store, ...], backup: Path, previous: Path | None) -> list[str]:
    """Copy the databases, then the files that are new; return the files that rows name and that are missing."""
    platform, mlflow, prefect = stores
    for old in (backup / DATABASES).iterdir():
        old.unlink()
    _copy_present(prefect, backup)
    with _copied(platform, backup / DATABASES / platform.copy_name) as session:
        _copy_present(mlflow, backup)
        _copy_files(data_dir, backup / FILES, previous)
        _forget_unknown_jobs(session, backup / FILES / "jobs")
        return [name for name in _named_files(session) if not (backup / FILES / name).is_dir()]


def _copy_present(store: Store, backup: Path) -> None:
    if store.revision() is not None:
        store.copy(backup / DATABASES / store.copy_name)


@contextmanager
def _copied(platform: Store, target: Path) -> Iterator[Session]:
    """Copy the platform's database, and yield a session that reads what is in the copy."""
    if platform.file is not None:
        platform.copy(target)
        engine = create_engine(f"sqlite:///{target}")
    else:
        engine = create_engine(platform.url, isolation_level="REPEATABLE READ")
    try:
        with Session(engine) as session:
            if platform.file is None:
                # The program that copies sees what this transaction sees.
                platform.copy(target, session.scalar(text("SELECT pg_export_snapshot()")))
            yield session
    finally:
        engine.dispose()


def _forget_unknown_jobs(session: Session, jobs: Path) -> None:
    """Remove folders of jobs that are not in the copied tables: the next job after a restore may get such an id."""
    known = {str(number) for number in session.scalars(select(TrainingJob.id))}
    for folder in jobs.iterdir() if jobs.is_dir() else ():
        if folder.name not in known:
            shutil.rmtree(folder)


def _named_files(session: Session) -> Iterator[str]:
    """Yield the folders that rows name and that nobody makes again."""
    for model in session.scalars(select(Model).where(Model.deleted_at.is_(None))):
        if model.adapter is not None:
            yield f"adapters/{model.adapter}"
        if model.weights is not None:
            yield f"weights/{model.weights}"
    ready = select(Dataset).where(Dataset.deleted_at.is_(None), Dataset.content_hash.is_not(None))
    for dataset in session.scalars(ready):
        yield f"datasets/{dataset.content_hash}"


def _describe(stores: tuple[Store, ...], backup: Path) -> dict[str, dict[str, str]]:
    found = {}
    for store in stores:
        revision = store.revision()
        if revision is not None and (backup / DATABASES / store.copy_name).exists():
            found[store.name] = {"file": store.copy_name, "revision": revision}
    return found
