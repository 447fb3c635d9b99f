"""`llm-platform backup` and `restore` as commands: what they print, and when they refuse."""

import pytest

from api.cli.program import run
from api.launcher.lock import instance_lock
from configs.settings import Settings
from registry.upgrade import upgrade_stores
from tests.fixtures.first_release.unpack import unpack


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """The data folder of a platform that does not run, named by the environment."""
    folder = tmp_path / "data"
    unpack(folder)
    upgrade_stores(Settings(data_dir=folder), print)
    monkeypatch.setenv("LLM_PLATFORM_DATA_DIR", str(folder))
    return folder


def test_a_backup_is_made_and_restored_by_two_commands(data_dir, tmp_path, monkeypatch, capsys):
    backup = tmp_path / "backup"
    assert run(["backup", str(backup)]) == 0
    assert f"{backup}: " in capsys.readouterr().out
    monkeypatch.setenv("LLM_PLATFORM_DATA_DIR", str(tmp_path / "again"))
    assert run(["restore", str(backup)]) == 0
    assert "Restored. 1 unfinished jobs and evaluations go on, or stay paused" in capsys.readouterr().out
    assert (tmp_path / "again" / "platform.db").exists()


def test_a_restore_beside_a_running_platform_is_refused(data_dir, tmp_path, capsys):
    backup = tmp_path / "backup"
    assert run(["backup", str(backup)]) == 0
    with instance_lock(data_dir / "run" / "lock", print):
        assert run(["restore", str(backup), "--force"]) == 1
    assert "The platform is already running on this data folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_what_can_not_be_done_is_one_line(data_dir, tmp_path, capsys, command):
    (tmp_path / "folder").mkdir()
    assert run([command, str(tmp_path / "folder")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(tmp_path / "folder") in error
    assert error.count("\n") == 1


def test_the_start_is_refused_after_an_interrupted_restore(data_dir, capsys):
    (data_dir / ".restoring").mkdir()
    assert run(["up"]) == 1
    assert "Can't start: A restore into" in capsys.readouterr().err
