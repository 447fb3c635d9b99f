"""`llm-platform gc` over a data folder: what it lists, what it removes, and how it ends."""

import json
import os
from uuid import uuid4

import pytest

from api.cli.program import run
from registry.database import upgrade


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_PLATFORM_DATA_DIR", str(tmp_path))
    for name in ("FLOW_RUNS", "DELETED", "CACHES"):
        monkeypatch.setenv(f"LLM_PLATFORM_KEEP_{name}_DAYS", "null")
    upgrade(f"sqlite:///{tmp_path / 'platform.db'}")
    return tmp_path


@pytest.fixture
def orphan(data_dir):
    file = data_dir / "datasets" / "uploads" / uuid4().hex
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 8192)
    os.utime(file, (1_700_000_000, 1_700_000_000))
    return file


def test_it_lists_and_then_removes(orphan, capsys):
    assert run(["gc", "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    uploads = [one for one in planned["removed"] if one["rule"] == "uploads"]
    assert uploads == [{"rule": "uploads", "what": str(orphan), "count": 1, "bytes": 8192}]
    assert (planned["dry_run"], planned["failures"]) == (True, [])
    assert run(["gc", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert str(orphan) in printed
    assert "would go" in printed
    assert orphan.exists()
    assert run(["gc"]) == 0
    assert "removed" in capsys.readouterr().out
    assert not orphan.exists()


def test_a_service_that_is_down_is_said(orphan, capsys, monkeypatch):
    monkeypatch.setenv("LLM_PLATFORM_KEEP_FLOW_RUNS_DAYS", "1")
    monkeypatch.setenv("LLM_PLATFORM_PREFECT_PORT", "1")
    assert run(["gc"]) == 1
    assert "1 rules could not be followed: flow-runs" in capsys.readouterr().err
    assert not orphan.exists()


def test_a_folder_that_is_none_of_the_platform(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LLM_PLATFORM_DATA_DIR", str(tmp_path / "nothing"))
    assert run(["gc"]) == 1
    assert "no data folder" in capsys.readouterr().err
