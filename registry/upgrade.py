"""Before the services start: every database gets the version that the software needs, after a snapshot of it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from configs.settings import Settings
from registry import database
from registry.schema import SchemaError, require_known
from registry.stores import Store, StoreError, platform_stores, replace_sqlite

KEPT_SNAPSHOTS = 3
MLFLOW_UPGRADE_SECONDS = 3600

Say = Callable[[str], None]


def upgrade_stores(settings: Settings, say: Say) -> None:
    """Upgrade the platform's and MLflow's databases; Prefect's server does its own. Each gets a snapshot before.

    Nobody may use MLflow's and Prefect's meanwhile. Raises SchemaError, and StoreError.
    """
    platform, mlflow, prefect = platform_stores(settings)
    snapshots = Snapshots(settings, say)
    database.upgrade(platform.url, lambda revision: snapshots.take(platform, revision))
    for store in (mlflow, prefect):
        present, known = store.revision(), store.known()
        require_known(present, known, f"{store.software}'s database", store.software)
        # Without tables yet, its server makes them.
        if present not in (None, known.head):
            snapshots.take(store, present)
            if store is mlflow:
                say(f"Upgrading MLflow's database from version {present} to {known.head} ...")
                _upgrade_mlflow(store)


class Snapshots:
    """Copies of databases as they were before an upgrade; the newest few of each are kept."""

    def __init__(self, settings: Settings, say: Say) -> None:
        self._folder = settings.snapshots_dir
        self._mode = settings.upgrade_snapshot
        self._say = say

    def take(self, store: Store, revision: str | None) -> None:
        """Copy a database that is at `revision` (None: it has no tables, and nothing is copied). Raises SchemaError."""
        if revision is None or self._mode == "off":
            return
        if store.file is None and store.tool("pg_dump") is None and self._mode == "auto":
            self._say(
                f"NO SNAPSHOT of {store.software}'s database is made before its upgrade: pg_dump is not installed "
                "(LLM_PLATFORM_POSTGRESQL_TOOLS_DIR). Only a backup of your own can take the upgrade back."
            )
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        target = self._folder / f"{store.name}-{revision}-{moment}{Path(store.copy_name).suffix}"
        partial = target.with_name(f"{target.name}.partial")
        try:
            store.copy(partial)
        except (StoreError, OSError) as error:
            partial.unlink(missing_ok=True)
            raise SchemaError(
                f"{store.software}'s database was not upgraded, as there is no snapshot of it: {error} To upgrade "
                "without one, set LLM_PLATFORM_UPGRADE_SNAPSHOT=off."
            ) from error
        partial.rename(target)
        self._say(f"Snapshot of {store.software}'s database before its upgrade: {target}")
        self._drop_old(store)

    def _drop_old(self, store: Store) -> None:
        # Their names end in the moment they were made; the version before it does not sort.
        found = sorted(self._folder.glob(f"{store.name}-*"), key=lambda file: file.name.rsplit("-", 1)[-1])
        for file in found[:-KEPT_SNAPSHOTS]:
            file.unlink()


def _upgrade_mlflow(store: Store) -> None:
    """Run MLflow's migrations. On SQLite they are no transaction: a copy is upgraded, which then takes the place."""
    if store.file is None:
        _run_mlflow(store.url)
        return
    # Each attempt has a folder of its own: what a killed one left (a journal, even a process that goes on) would
    # change a new copy of the same name.
    for left in store.file.parent.glob(f"{store.file.name}.upgrading-*"):
        shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=f"{store.file.name}.upgrading-", dir=store.file.parent) as folder:
        upgraded = Path(folder) / store.file.name
        store.copy(upgraded)
        _run_mlflow(f"sqlite:///{upgraded}")
        replace_sqlite(store.file, upgraded)


def _run_mlflow(url: str) -> None:
    # In a process of its own: MLflow takes seconds to import, and this one goes on as the launcher.
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "db", "upgrade", url],
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        timeout=MLFLOW_UPGRADE_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise SchemaError(
            f"MLflow's database was not upgraded (`mlflow db upgrade` ended with {done.returncode}): "
            f"{' '.join(done.stderr.split())[-500:]}"
        )
