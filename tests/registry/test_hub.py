"""The hub is asked for sizes first, ended when it stalls, and not asked at all where that is turned off."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from registry.hub import HubError, require_room
from tests.fake_hub import FakeHub

ROOT = Path(__file__).parents[2]
OBTAIN = """
import sys
from pathlib import Path
from registry.weights import WeightsUnavailable, obtain, probe
name, models_dir, allow_hub, min_free, stall = sys.argv[1:]
print(probe(name, Path(models_dir), allow_hub == "yes", int(min_free)).status)
try:
    print(obtain(name, Path(models_dir), allow_hub == "yes", int(min_free), float(stall)))
except WeightsUnavailable as error:
    print(f"refused: {error}")
"""


@pytest.fixture
def hub_dir(tiny_llama_dir, tmp_path):
    """What the hub has: the tiny Llama as `tiny/llama`, with a pickle beside it."""
    folder = shutil.copytree(tiny_llama_dir, tmp_path / "hub" / "tiny" / "llama")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    return tmp_path / "hub"


def obtained(hub, tmp_path, name="tiny/llama", *, allow_hub=True, min_free=0, stall=60.0):
    """What a process of its own, whose hub is ours, says: the status and what came of it."""
    names = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    arguments = [name, str(tmp_path / "models"), "yes" if allow_hub else "no", str(min_free), str(stall)]
    run = subprocess.run(
        [sys.executable, "-c", OBTAIN, *arguments],
        cwd=ROOT,
        env=os.environ | names,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip().splitlines()


def test_what_another_download_would_not_mend_is_not_fetched_again(hub_dir, tmp_path):
    file = hub_dir / "tiny" / "llama" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "mamba"}))
    with FakeHub(hub_dir) as hub:
        status, refused = obtained(hub, tmp_path)
        assert status == "AVAILABLE", "nobody knows before it has been fetched"
        assert "of the family mamba, which is not supported" in refused
        asked = len(hub.requests)
        status, refused = obtained(hub, tmp_path)
        assert status == "UNAVAILABLE"
        assert "in the cache" in refused
        assert "of the family mamba, which is not supported" in refused
        assert len(hub.requests) == asked


def test_a_model_is_fetched_without_its_pickles(hub_dir, tmp_path):
    with FakeHub(hub_dir) as hub:
        status, found = obtained(hub, tmp_path)
        assert status == "AVAILABLE"
        names = {file.name for file in Path(found).iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
        assert "pytorch_model.bin" not in names
        asked = len(hub.requests)
        # It is on disk now: nobody is asked again.
        assert obtained(hub, tmp_path) == ["AVAILABLE", found]
        assert len(hub.requests) == asked


def test_where_the_hub_is_turned_off_nobody_is_asked(hub_dir, tmp_path):
    with FakeHub(hub_dir) as hub:
        status, said = obtained(hub, tmp_path, allow_hub=False)
        assert status == "UNAVAILABLE"
        assert "turned off" in said
        assert hub.requests == []


def test_what_does_not_fit_on_the_disk_is_not_begun(hub_dir, tmp_path):
    with FakeHub(hub_dir, claimed=10**15) as hub:
        status, said = obtained(hub, tmp_path, min_free=3_000_000_000)
        assert status == "UNAVAILABLE"
        assert "GB that are free" in said
        assert "3.0 GB are kept" in said
        assert not any("resolve" in request for request in hub.requests)


def test_a_floor_of_free_disk_refuses_a_small_model_too(hub_dir, tmp_path):
    with FakeHub(hub_dir) as hub:
        status, said = obtained(hub, tmp_path, min_free=10**15)
        assert status == "UNAVAILABLE"
        assert "takes 0.0 GB of disk" in said
        assert "1000000.0 GB are kept" in said


def test_a_download_that_stalls_is_ended(hub_dir, tmp_path):
    with FakeHub(hub_dir, stall_after=100) as hub:
        status, said = obtained(hub, tmp_path, stall=4.0)
        assert status == "AVAILABLE"
        assert "nothing of it has come for 4 s" in said


def test_what_the_hub_does_not_have_is_said(hub_dir, tmp_path):
    with FakeHub(hub_dir) as hub:
        status, said = obtained(hub, tmp_path, "tiny/absent")
        assert status == "UNAVAILABLE"
        assert "the hub did not provide it" in said


def test_a_damaged_model_of_the_hub_is_not_taken(hub_dir, tmp_path):
    file = hub_dir / "tiny" / "llama" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with FakeHub(hub_dir) as hub:
        _, said = obtained(hub, tmp_path)
        assert said.startswith("refused: tiny/llama was fetched")
        assert "cut short or damaged" in said


def test_room_is_what_is_free_beyond_the_floor(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    require_room("this", free // 2, tmp_path / "not" / "there" / "yet", 0)
    with pytest.raises(HubError, match=r"this takes .* GB are kept"):
        require_room("this", free // 2, tmp_path, free)
