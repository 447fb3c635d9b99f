"""How many devices a job may ask for, and that its memory is counted on each."""

import pytest

from tasks.training.machine import gpus
from tests.api.test_jobs_without_prefect import create

GB = 0.8  # room for two processes
LARGE = {"batch_size": 1024, "max_seq_length": 256}


@pytest.fixture(scope="module")
def settings(settings):
    return settings.model_copy(update={"training_memory_gb": GB, "compute_dtype": "float32", "device": "auto"})


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '81559\\n81559\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    gpus.cache_clear()
    yield
    gpus.cache_clear()


def test_more_devices_than_gpus_are_refused(client, tiny_model, two_gpus):
    response = create(client, tiny_model["id"], devices=3)
    assert response.status_code == 422
    assert response.json()["error"] == "devices is 3, but this machine has 2 GPUs: ask for that many at most."
    assert create(client, tiny_model["id"], devices=2).status_code == 201


def test_every_device_needs_a_row(client, tiny_model):
    response = create(client, tiny_model["id"], devices=3, batch_size=2)
    assert response.status_code == 422
    assert "devices is 3, but a batch_size of 2 has no row for each of them" in response.json()["error"]


def test_processes_on_a_cpu_share_its_memory(client, tiny_model):
    alone = create(client, tiny_model["id"], **LARGE).json()["details"]["fits"]["batch_size"]
    answer = create(client, tiny_model["id"], **LARGE, devices=2).json()
    assert "with 512 rows at once on each of 2 devices of up to 256 tokens" in answer["error"]
    rows = answer["details"]["fits"]["batch_size"]
    assert rows < alone  # each has a copy of the weights
    assert create(client, tiny_model["id"], **LARGE | {"batch_size": rows}, devices=2).status_code == 201
    assert create(client, tiny_model["id"], **LARGE | {"batch_size": rows + 1}, devices=2).status_code == 422


def test_dividing_the_weights_is_for_several_devices(client, tiny_model):
    response = create(client, tiny_model["id"], sharding="full")
    assert response.status_code == 422
    assert "sharding is 'full', but devices is 1" in response.json()["error"]
    assert create(client, tiny_model["id"], sharding="full", devices=2).status_code == 201


def test_a_job_that_fits_the_gpus_together_is_told_so(client, tiny_model, two_gpus):
    rows = create(client, tiny_model["id"], **LARGE).json()["details"]["fits"]["batch_size"]
    little_more = LARGE | {"batch_size": rows + 1}
    answer = create(client, tiny_model["id"], **little_more).json()
    assert answer["error"].endswith("On devices 2 it would fit as it is.")
    assert answer["details"]["fits"]["devices"] == 2
    assert create(client, tiny_model["id"], **little_more, devices=2).status_code == 201
