"""Pause, resume, cancel, restart, queue and delete, from the API and from Prefect; interrupted runs are exact."""

import json
import random
import time
from datetime import UTC, datetime

import httpx

from tests.e2e.tiny_job import (
    STEPS,
    act,
    assert_equals,
    assert_mlflow_agrees,
    assert_off_the_device,
    pause_as_prefects_ui_does,
    resume_as_prefects_ui_does,
    start,
    submit,
    wait_for_step,
)


def test_a_run_paused_at_three_random_steps_equals_one_never_paused(platform, tiny_model, undisturbed):
    first, second, third = sorted(random.sample(range(5, STEPS * 2 // 3), 3))
    print(f"pausing after steps {first}, {second}, {third}")
    job_id = submit(platform, tiny_model)
    flow_run_id = wait_for_step(platform, job_id, first)["flow_run_id"]

    assert act(platform, job_id, "pause")["status"] == "PAUSED"
    assert_off_the_device(platform.job(job_id))
    assert_mlflow_agrees(platform, job_id)
    assert act(platform, job_id, "resume")["status"] == "RUNNING"
    assert_mlflow_agrees(platform, job_id)

    wait_for_step(platform, job_id, second)
    pause_as_prefects_ui_does(platform, flow_run_id)
    assert_off_the_device(platform.wait_for_job(job_id, "PAUSED", seconds=20))
    run_url = f"{platform.prefect_url}/flow_runs/{flow_run_id}"
    platform.wait_until(
        lambda: httpx.get(run_url).json()["state"]["state_details"]["pause_timeout"] is None, 10, "no time limit"
    )
    resume_as_prefects_ui_does(platform, flow_run_id)

    platform.wait_until(lambda: platform.job(job_id)["attempt"]["number"] == 3, 30, "the third attempt")
    wait_for_step(platform, job_id, third)
    pause_as_prefects_ui_does(platform, flow_run_id)
    time.sleep(0.5)  # as long as a person takes who pressed the wrong button
    assert act(platform, job_id, "resume")["status"] == "RUNNING"

    job = assert_equals(platform, job_id, undisturbed)
    outcomes = [attempt["outcome"] for attempt in job["attempts"]]
    assert outcomes in (["paused", "paused", "paused", "completed"], ["paused", "paused", "completed"])
    assert all(attempt["started_at"] < attempt["ended_at"] for attempt in job["attempts"])


def test_a_cancelled_job_leaves_the_device_and_can_be_restarted_exactly(platform, tiny_model, undisturbed):
    job_id = start(platform, tiny_model)
    checkpoints = platform.data_dir / "jobs" / str(job_id) / "checkpoints"
    platform.wait_until(lambda: list(checkpoints.glob("step-*")), 60, "a checkpoint")
    assert platform.job(job_id)["eta_seconds"] > 0
    assert act(platform, job_id, "cancel")["status"] == "CANCELLED"
    assert_off_the_device(platform.job(job_id))
    assert list(checkpoints.glob("step-*"))
    assert_mlflow_agrees(platform, job_id)
    assert act(platform, job_id, "cancel", 409)["error"]
    assert act(platform, job_id, "restart")["status"] in ("PENDING", "RUNNING")
    assert_equals(platform, job_id, undisturbed)


def test_a_paused_job_can_be_cancelled_and_every_store_says_so(platform, tiny_model):
    job_id = start(platform, tiny_model)
    act(platform, job_id, "pause")
    assert act(platform, job_id, "cancel")["status"] == "CANCELLED"
    assert_mlflow_agrees(platform, job_id)
    run_url = f"{platform.prefect_url}/flow_runs/{platform.job(job_id)['flow_run_id']}"
    assert httpx.get(run_url).json()["state_type"] == "CANCELLED"


def test_queued_jobs_have_a_place_and_can_be_paused_cancelled_and_deleted(platform, tiny_model):
    running = start(platform, tiny_model, max_steps=100_000)
    queued = [submit(platform, tiny_model) for _ in range(3)]
    assert [platform.job(job_id)["queue_position"] for job_id in queued] == [1, 2, 3]
    assert platform.job(running)["queue_position"] is None
    assert act(platform, queued[0], "pause")["status"] == "PAUSED"
    assert act(platform, queued[1], "cancel")["status"] == "CANCELLED"
    assert platform.job(queued[2])["queue_position"] == 1
    # Resumed while another has the device: it queues, behind the one that waited on.
    assert act(platform, queued[0], "resume", 202)["status"] == "PENDING"
    assert [platform.job(job_id)["queue_position"] for job_id in (queued[2], queued[0])] == [1, 2]
    in_use = platform.http.delete(f"/training/{running}")
    assert in_use.status_code == 409
    assert "RUNNING" in in_use.json()["error"]
    for job_id in (queued[0], queued[2], running):
        assert act(platform, job_id, "cancel")["status"] == "CANCELLED"
    for job_id in (*queued, running):
        assert platform.http.delete(f"/training/{job_id}").status_code == 200
        assert platform.http.get(f"/training/{job_id}").status_code == 404
        assert not (platform.data_dir / "jobs" / str(job_id)).exists()


def test_a_schedule_in_prefect_makes_a_job_when_it_is_due(platform, tiny_model):
    name = "by schedule"
    begun = datetime.now(UTC).replace(tzinfo=None)
    deployment = httpx.get(f"{platform.prefect_url}/deployments/name/finetune/finetune").json()
    schedules = f"{platform.prefect_url}/deployments/{deployment['id']}/schedules"
    schedule = {
        "active": True,
        "schedule": {"interval": 15},
        "parameters": {"job": {"model_id": tiny_model, "job_name": name, "max_steps": 3, "max_seq_length": 64}},
    }
    (made,) = httpx.post(schedules, json=[schedule]).raise_for_status().json()

    def scheduled():
        jobs = platform.http.get("/training").json()["training_jobs"]
        return next((job for job in jobs if job["job_name"] == name), None)

    try:
        job = platform.wait_until(scheduled, 120, "the scheduled job")
        assert platform.wait_for_job(job["id"], "COMPLETED")["step"] == 3
        run = httpx.get(f"{platform.prefect_url}/flow_runs/{platform.job(job['id'])['flow_run_id']}").json()
    finally:
        # Prefect deletes with it the runs that have not begun.
        httpx.delete(f"{schedules}/{made['id']}").raise_for_status()
    due = datetime.fromisoformat(run["expected_start_time"]).replace(tzinfo=None)
    assert begun < due <= datetime.fromisoformat(job["created_at"])


def test_ten_pauses_and_resumes_in_a_row(platform, tiny_model):
    job_id = start(platform, tiny_model, max_steps=100_000)
    steps = []
    for _ in range(10):
        assert act(platform, job_id, "pause")["status"] == "PAUSED"
        steps.append(platform.job(job_id)["step"])
        assert act(platform, job_id, "resume")["status"] == "RUNNING"
        time.sleep(0.5)
    assert steps == sorted(steps)
    assert platform.job(job_id)["attempt"]["number"] == 11
    assert act(platform, job_id, "cancel")["status"] == "CANCELLED"


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
    job_id = submit(platform, undisturbed["output_model_id"], max_steps=20)
    job = platform.wait_for_job(job_id, "COMPLETED")
    child = platform.http.get(f"/models/{job['output_model_id']}").json()
    assert child["parameters"]["parent_model_id"] == undisturbed["output_model_id"]
    answer = platform.http.post(f"/models/{child['id']}/generate", json={"prompt": "def main", "max_new_tokens": 4})
    assert answer.status_code == 200, answer.text
