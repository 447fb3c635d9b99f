"""Processes that read data sets: so many at once, so long, and a hub that is silent holds nobody up."""

import asyncio
import time

import pytest

from api.dataset_process import DatasetProcess
from api.errors import Busy, ServiceDown
from configs.dataset import UPLOAD
from configs.settings import Settings
from registry.tables import Dataset
from tests.fake_hub import FakeHub


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Build one over a data folder of its own; `hub` is in the place of the real one, here and in its processes."""

    def make(hub=None, **fields):
        if hub is not None:
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
            for name, value in {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache")}.items():
                monkeypatch.setenv(name, value)
        settings = Settings(data_dir=tmp_path / "data", **{"min_free_disk_gb": 0.0} | fields)
        settings.uploads_dir.mkdir(parents=True, exist_ok=True)
        return DatasetProcess(settings)

    return make


@pytest.fixture
def hub_dir(tmp_path):
    folder = tmp_path / "hub" / "org" / "rows"
    folder.mkdir(parents=True)
    (folder / "train.parquet").write_bytes(b"PAR1" * 100)
    return tmp_path / "hub"


def named(source="org/rows"):
    return Dataset(uid="u1", name="rows", source=source, status="VALIDATING", settings={})


def test_a_preview_that_takes_too_long_ends_with_its_process(made):
    process = made(preview_timeout_seconds=0.2)
    begun = time.monotonic()
    with pytest.raises(ServiceDown, match=r"longer than 0\.2 s"):
        asyncio.run(process.preview({"dataset": {}}))
    assert time.monotonic() - begun < 60


def test_a_preview_beyond_the_queue_is_refused(made):
    process = made(previews_at_once=1, preview_queue_length=1, preview_timeout_seconds=5)

    async def work():
        return await asyncio.gather(*(process.preview({"dataset": {}}) for _ in range(5)), return_exceptions=True)

    refused = [error for error in asyncio.run(work()) if isinstance(error, Busy)]
    assert len(refused) >= 3
    assert any("previews run or wait already, and at most 2 may" in error.message for error in refused)


def test_an_upload_is_not_fetched_and_where_the_hub_is_off_nobody_is_asked(made, hub_dir):
    with FakeHub(hub_dir) as hub:
        process = made(hub, allow_hub=False)
        assert asyncio.run(process.fetch(named(UPLOAD))) == {"ok": True}
        answer = asyncio.run(process.fetch(named()))
        assert "turned off" in answer["error"]
        assert hub.requests == []


def test_a_data_set_that_does_not_fit_is_not_begun(made, hub_dir):
    with FakeHub(hub_dir, claimed=10**15) as hub:
        answer = asyncio.run(made(hub, min_free_disk_gb=3.0).fetch(named()))
        assert not answer["ok"]
        assert "3000000.0 GB of disk" in answer["error"]
        assert "3.0 GB are kept" in answer["error"]
        assert not any("resolve" in request for request in hub.requests)


def test_a_hub_that_goes_silent_is_given_up(made, hub_dir):
    with FakeHub(hub_dir, stall_after=4) as hub:
        process = made(hub, hub_stall_seconds=6.0)
        answer = asyncio.run(process.fetch(named()))
        assert not answer["ok"]
        assert not list((hub_dir.parent / "data" / "datasets" / "uploads").iterdir())
