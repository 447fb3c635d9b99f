"""Restores a backup into a data folder: all is checked and made ready aside, then moved into place."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from configs.settings import Settings
from registry import database
from registry.backup_files import DATABASES, FILES, FOLDERS, BackupError, Manifest, sync_folders
from registry.restored_runs import settle
from registry.schema import require_known
from registry.stores import Store, platform_stores

RESTORING = ".restoring"
"""Folder, in the data folder, in which a restore is made ready; one that is there was interrupted."""
_FILES_OF = {"platform": "platform.db", "mlflow": "mlflow.db", "prefect": "prefect/prefect.db"}
"""Where each database lies in the data folder, when it is SQLite's and no URL says otherwise."""


def require_no_interrupted_restore(data_dir: Path) -> None:
    """Raise BackupError if the data folder holds a part of a backup only."""
    if (data_dir / RESTORING).exists():
        raise BackupError(
            f"A restore into {data_dir} was interrupted: run `llm-platform restore` again, with --force if it asks for "
            "it; what was there before lies in a folder before-restore-…"
        )


def restore_backup(settings: Settings, backup: Path, force: bool, say: Callable[[str], None]) -> int:
    """Put a backup in the place of what the settings name; return how many unfinished jobs and evaluations go on.

    With `force` what is there is moved aside within the data folder; PostgreSQL databases are overwritten. The caller
    sees to it that no platform runs. Raises BackupError, SchemaError and StoreError.
    """
    stores = platform_stores(settings)
    manifest = Manifest.read(backup)
    _require_restorable(manifest, stores)
    _require_place(settings.data_dir, stores, force)
    say(f"Checking {len(manifest.files)} files ...")
    manifest.verify(backup)
    staging = settings.data_dir / RESTORING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for folder in FOLDERS:
        if (backup / FILES / folder).is_dir():
            shutil.copytree(backup / FILES / folder, staging / folder)
    staged = [_stage(store, manifest, backup, staging) for store in stores]
    platform, _, prefect = staged
    database.upgrade(platform.url)
    again = settle(platform, prefect, manifest.created_at)
    sync_folders(staging)
    if force:
        _move_aside(settings.data_dir, stores, say)
    _move_into_place(staging, stores, settings.data_dir)
    return again


def _require_restorable(manifest: Manifest, stores: tuple[Store, ...]) -> None:
    for store in stores:
        kept = manifest.databases.get(store.name)
        if kept is None:
            continue
        if kept["file"] != store.copy_name:
            there, here = ("SQLite", "PostgreSQL") if kept["file"].endswith(".db") else ("PostgreSQL", "SQLite")
            raise BackupError(
                f"The backup has {store.software}'s database from {there}, but the settings here name one of {here}: "
                f"set (or unset) {_variable(store)} as it was when the backup was made."
            )
        require_known(kept["revision"], store.known(), f"{store.software}'s database in the backup", store.software)


def _variable(store: Store) -> str:
    return "LLM_PLATFORM_" + ("" if store.name == "platform" else f"{store.name.upper()}_") + "DATABASE_URL"


def _require_place(data_dir: Path, stores: tuple[Store, ...], force: bool) -> None:
    occupied = [str(data_dir / name) for name in FOLDERS if any((data_dir / name).glob("*"))]
    occupied += [str(store.file or f"{store.software}'s database") for store in stores if not store.is_empty()]
    if occupied and not force:
        raise BackupError(
            f"There is data already ({', '.join(occupied)}): restore into an empty data folder "
            "(LLM_PLATFORM_DATA_DIR), or move what is there aside by --force."
        )


def _stage(store: Store, manifest: Manifest, backup: Path, staging: Path) -> Store:
    """Return the store with the backup's content: a file in the staging folder, or PostgreSQL's database itself."""
    kept = manifest.databases.get(store.name)
    copy = None if kept is None else backup / DATABASES / kept["file"]
    if store.file is None:
        if copy is not None:
            store.put_back(copy)
        return store
    file = staging / _FILES_OF[store.name]
    file.parent.mkdir(exist_ok=True)
    if copy is not None:
        shutil.copy2(copy, file)
    return replace(store, url=f"sqlite:///{file}")


def _move_aside(data_dir: Path, stores: tuple[Store, ...], say: Callable[[str], None]) -> None:
    aside = data_dir / f"before-restore-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}"
    aside.mkdir()
    for name in FOLDERS:
        if (data_dir / name).exists():
            (data_dir / name).rename(aside / name)
    for store in stores:
        # With what SQLite keeps beside it.
        for file in store.file.parent.glob(f"{store.file.name}*") if store.file is not None else ():
            shutil.move(file, aside / file.name)
    say(f"What was there before lies in {aside}.")


def _move_into_place(staging: Path, stores: tuple[Store, ...], data_dir: Path) -> None:
    """Move the files, then the databases; the staging folder, which says that this is not done, goes last."""
    for name in FOLDERS:
        if (staging / name).is_dir():
            if (data_dir / name).is_dir():
                (data_dir / name).rmdir()
            (staging / name).rename(data_dir / name)
    for store in stores:
        made = staging / _FILES_OF[store.name]
        if store.file is not None and made.exists():
            store.file.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(made, store.file)
    shutil.rmtree(staging)
