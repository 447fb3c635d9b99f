"""Pause, resume, cancel, restart, queue and delete, from the API and from Prefect; interrupted runs are exact."""

import json
import time
from datetime import UTC, datetime, timedelta

import httpx
import psutil
import pytest
from mlflow import MlflowClient

STEPS = 600
JOB = {"max_steps": STEPS, "max_seq_length": 64, "batch_size": 2, "lora_r": 2, "lora_dropout": 0.1, "eval_every": 200}


@pytest.fixture(scope="module")
def tiny_model(platform):
    return platform.http.post("/models", json={"name": "Tiny", "base_model": "tiny-llama"}).json()["id"]


def start(platform, tiny_model, **changes):
    """Return the id of a job that has done a few steps."""
    job_id = platform.train(model_id=tiny_model, **{**JOB, **changes})
    platform.wait_until(lambda: platform.job(job_id)["step"] > 5, 120, "the first steps")
    return job_id


def post(platform, job_id, action, status):
    response = platform.http.post(f"/training/{job_id}/{action}")
    assert response.status_code == status, response.text
    return response.json()


def adapter_bytes(platform, job):
    model = platform.http.get(f"/models/{job['output_model_id']}").json()
    assert model["parameters"]["training_job_id"] == job["id"]
    client = MlflowClient(platform.mlflow_url)
    folder = client.download_artifacts(job["mlflow_run_id"], "adapter/adapter_model.safetensors")
    with open(folder, "rb") as file:  # noqa: PTH123
        return file.read()


def losses(platform, job):
    history = MlflowClient(platform.mlflow_url).get_metric_history(job["mlflow_run_id"], "loss")
    return sorted((point.step, point.value) for point in history)


@pytest.fixture(scope="module")
def undisturbed(platform, tiny_model):
    return platform.wait_for_job(start(platform, tiny_model), "COMPLETED")


def test_a_run_paused_at_both_doors_equals_one_never_paused(platform, tiny_model, undisturbed):
    job_id = start(platform, tiny_model)
    assert post(platform, job_id, "pause", 200)["status"] == "PAUSED"
    paused = platform.job(job_id)
    assert not psutil.pid_exists(paused["attempt"]["pid"])
    assert post(platform, job_id, "resume", 200)["status"] == "RUNNING"
    # As Prefect's UI pauses: with a time limit of five minutes, which must not end the pause.
    run_url = f"{platform.prefect_url}/flow_runs/{paused['flow_run_id']}"
    limit = (datetime.now(UTC) + timedelta(seconds=300)).isoformat()
    details = {"pause_reschedule": True, "pause_timeout": limit}
    state = {"type": "PAUSED", "name": "Suspended", "state_details": details}
    httpx.post(f"{run_url}/set_state", json={"state": state, "force": False}).raise_for_status()
    platform.wait_for_job(job_id, "PAUSED", seconds=20)
    platform.wait_until(
        lambda: httpx.get(run_url).json()["state"]["state_details"]["pause_timeout"] is None, 10, "no time limit"
    )
    httpx.post(f"{run_url}/resume", json={}).raise_for_status()
    job = platform.wait_for_job(job_id, "COMPLETED")
    assert job["attempt"]["number"] == 3
    assert [attempt["number"] for attempt in job["attempts"]] == [1, 2, 3]
    assert losses(platform, job) == losses(platform, undisturbed)
    assert adapter_bytes(platform, job) == adapter_bytes(platform, undisturbed)


def test_a_cancelled_job_leaves_the_device_and_can_be_restarted_exactly(platform, tiny_model, undisturbed):
    job_id = start(platform, tiny_model)
    checkpoints = platform.data_dir / "jobs" / str(job_id) / "checkpoints"
    platform.wait_until(lambda: list(checkpoints.glob("step-*")), 60, "a checkpoint")
    assert platform.job(job_id)["eta_seconds"] > 0
    assert post(platform, job_id, "cancel", 200)["status"] == "CANCELLED"
    job = platform.job(job_id)
    assert not psutil.pid_exists(job["attempt"]["pid"])
    assert list(checkpoints.glob("step-*"))
    assert MlflowClient(platform.mlflow_url).get_run(job["mlflow_run_id"]).info.status == "KILLED"
    assert post(platform, job_id, "cancel", 409)["error"]
    assert post(platform, job_id, "restart", 200)["status"] in ("PENDING", "RUNNING")
    job = platform.wait_for_job(job_id, "COMPLETED")
    assert losses(platform, job) == losses(platform, undisturbed)
    assert adapter_bytes(platform, job) == adapter_bytes(platform, undisturbed)


def test_queued_jobs_have_a_place_and_can_be_paused_cancelled_and_deleted(platform, tiny_model):
    running = start(platform, tiny_model, max_steps=100_000)
    queued = [platform.train(model_id=tiny_model, **JOB) for _ in range(3)]
    assert [platform.job(job_id)["queue_position"] for job_id in queued] == [1, 2, 3]
    assert platform.job(running)["queue_position"] is None
    assert post(platform, queued[0], "pause", 200)["status"] == "PAUSED"
    assert post(platform, queued[1], "cancel", 200)["status"] == "CANCELLED"
    assert platform.job(queued[2])["queue_position"] == 1
    # Resumed while another has the device: it queues, behind the one that waited on.
    assert post(platform, queued[0], "resume", 202)["status"] == "PENDING"
    assert [platform.job(job_id)["queue_position"] for job_id in (queued[2], queued[0])] == [1, 2]
    in_use = platform.http.delete(f"/training/{running}")
    assert in_use.status_code == 409
    assert "RUNNING" in in_use.json()["error"]
    for job_id in (queued[0], queued[2], running):
        assert post(platform, job_id, "cancel", 200)["status"] == "CANCELLED"
    for job_id in (*queued, running):
        assert platform.http.delete(f"/training/{job_id}").status_code == 200
        assert platform.http.get(f"/training/{job_id}").status_code == 404
        assert not (platform.data_dir / "jobs" / str(job_id)).exists()


def test_ten_pauses_and_resumes_in_a_row(platform, tiny_model):
    job_id = start(platform, tiny_model, max_steps=100_000)
    steps = []
    for _ in range(10):
        assert post(platform, job_id, "pause", 200)["status"] == "PAUSED"
        steps.append(platform.job(job_id)["step"])
        assert post(platform, job_id, "resume", 200)["status"] == "RUNNING"
        time.sleep(0.5)
    assert steps == sorted(steps)
    assert platform.job(job_id)["attempt"]["number"] == 11
    assert post(platform, job_id, "cancel", 200)["status"] == "CANCELLED"


def test_events_can_be_read_as_a_page_and_as_a_stream_taken_up_again(platform, undisturbed):
    path = f"/training/{undisturbed['id']}/events"
    page = platform.http.get(path).json()["events"]
    kinds = {event["kind"] for event in page}
    assert {"attempt", "state", "log", "step", "evaluation", "checkpoint"} <= kinds
    steps = [event["data"]["step"] for event in page if event["kind"] == "step"]
    assert steps == list(range(1, STEPS + 1))
    states = [event["data"]["status"] for event in page if event["kind"] == "state"]
    assert states[-2:] == ["RUNNING", "COMPLETED"]
    seen = page[10]["id"]
    streamed = []
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(seen)}
    with platform.http.stream("GET", path, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        streamed = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]
    assert streamed == page[11:]


def test_models_in_use_are_kept_and_others_deleted(platform, tiny_model, undisturbed):
    parent = platform.http.delete(f"/models/{tiny_model}")
    assert parent.status_code == 409
    assert f"model {undisturbed['output_model_id']}" in parent.json()["error"]
    created = platform.http.post("/models", json={"name": "x", "base_model": "tiny-gpt2"}).json()["id"]
    assert platform.http.delete(f"/models/{created}").status_code == 200
    assert platform.http.get(f"/models/{created}").status_code == 404
    assert created not in [model["id"] for model in platform.http.get("/models").json()["models"]]


def test_a_fine_tune_of_a_fine_tune_is_a_model_too(platform, undisturbed):
    job_id = platform.train(model_id=undisturbed["output_model_id"], **{**JOB, "max_steps": 20})
    job = platform.wait_for_job(job_id, "COMPLETED")
    child = platform.http.get(f"/models/{job['output_model_id']}").json()
    assert child["parameters"]["parent_model_id"] == undisturbed["output_model_id"]
    answer = platform.http.post(f"/models/{child['id']}/generate", json={"prompt": "def main", "max_new_tokens": 4})
    assert answer.status_code == 200, answer.text
