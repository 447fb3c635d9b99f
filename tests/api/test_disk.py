"""Below the floor of free disk new work is refused and all else goes on; a disk that is full midway ends clean."""

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from configs.recipe import EvaluationParameters, FinetuneParameters
from configs.settings import Settings
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import evaluation_of_parameters, job_of_parameters
from tests.api.test_bad_input import assert_error
from tests.e2e.platform_process import free_ports
from tests.small_disk import filling, small_disk

MEGABYTE = 2**20
DISK_BYTES = 48 * MEGABYTE
FLOOR_GB = 0.008
ROW = b'{"prompt": "a question", "completion": "an answer"}\n'


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    with small_disk(folder, DISK_BYTES):
        yield folder


@pytest.fixture(scope="module")
def settings(disk, tiny_models_dir):
    prefect_port, mlflow_port, engine_port = free_ports(3)
    return Settings(
        data_dir=disk,
        local_models_dir=tiny_models_dir,
        allow_hub=False,
        min_free_disk_gb=FLOOR_GB,
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
        engine_port=engine_port,
    )


@pytest.fixture(scope="module")
def client(settings):
    with TestClient(create_app(settings), base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def ballast(disk):
    with filling(disk) as fill:
        yield fill


@pytest.fixture
def records(client, settings, tiny_model):
    """A job and an evaluation that have ended."""
    database = Database(settings.platform_database_url)
    with database.transaction() as session:
        jobs, evaluations = TrainingJobRepository(session), EvaluationRepository(session)
        job = jobs.add(job_of_parameters(FinetuneParameters(model_id=tiny_model["id"], job_name="a job")))
        jobs.record_state(job, "COMPLETED", utcnow())
        evaluation = evaluations.add(evaluation_of_parameters(EvaluationParameters(model_id=tiny_model["id"])))
        evaluations.record_state(evaluation, "COMPLETED", utcnow())
    database.close()
    return job.id, evaluation.id


def test_new_work_is_refused_below_the_floor_and_the_rest_goes_on(
    client, settings, tiny_model, records, ballast, monkeypatch
):
    job_id, evaluation_id = records
    body = {"model_id": tiny_model["id"], "job_name": "job"}
    first = client.post("/api/training", json=body, headers={"Idempotency-Key": "before"})
    assert first.status_code == 201
    ballast(4 * MEGABYTE)
    # The services are not running; an evaluation asks for them before it looks at the disk.
    monkeypatch.setattr(client.app.state.platform.monitor, "require", lambda *names: None)
    refused = [
        client.post("/api/training", json=body),
        client.post(f"/api/models/{tiny_model['id']}/evaluate", json={}),
        client.post("/api/datasets", files={"file": ("rows.jsonl", ROW)}),
        client.post("/api/datasets", json={"dataset": "somebody/rows"}),
    ]
    for response in refused:
        assert_error(response, 507, "GB free, but new work needs 0.01 GB", "llm-platform gc")
        assert response.json()["code"] == "disk_full"
        details = response.json()["details"]
        assert details["free_gb"] < FLOOR_GB <= details["needed_gb"]
    theirs = client.post("/v1/files", files={"file": ("rows.jsonl", ROW)}, data={"purpose": "fine-tune"})
    assert (theirs.status_code, theirs.json()["error"]["code"]) == (507, "disk_full")
    again = client.post("/api/training", json=body, headers={"Idempotency-Key": "before"})
    assert (again.status_code, again.json()) == (201, first.json())
    for path in ("/api/training", f"/api/training/{job_id}", "/api/evaluations", "/api/models", "/metrics"):
        assert client.get(path).status_code == 200, path
    assert client.post(f"/api/training/{job_id}/pause").status_code in (409, 503)
    assert client.delete(f"/api/training/{job_id}").status_code == 200
    assert client.delete(f"/api/evaluations/{evaluation_id}").status_code == 200


def test_the_gauges_tell_of_the_disk(client, disk):
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    assert float(lines["llm_platform_disk_total_bytes"]) == DISK_BYTES
    assert 0 < float(lines["llm_platform_disk_free_bytes"]) < DISK_BYTES


def test_an_upload_that_would_not_fit_is_refused_before_it_is_taken(client, ballast):
    ballast(12 * MEGABYTE)
    response = client.post("/api/datasets", files={"file": ("rows.jsonl", ROW * 60_000)})
    assert_error(response, 507, "GB free, but new work needs 0.01 GB")


def test_a_disk_that_is_full_in_the_middle_of_an_upload_leaves_nothing_behind(client, settings, ballast):
    ballast(int(FLOOR_GB * 1e9) + MEGABYTE)
    boundary, head = "edge", b'--edge\r\nContent-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'

    def chunks():
        """Without a length: nobody knows beforehand how much will come."""
        yield head
        for _ in range(300):
            yield ROW * 1000
        yield b"\r\n--edge--\r\n"

    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    response = client.post("/api/datasets", content=chunks(), headers=kind)
    assert_error(response, 507, "The disk became full", "nothing of it was kept")
    assert list(settings.uploads_dir.iterdir()) == []
    assert client.get("/api/datasets").status_code == 200
