"""A training job of seconds on a tiny model, and what must be equal between an undisturbed one and any other."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psutil
from mlflow import MlflowClient

from configs.recipe import ADAPTER_FIELDS
from tests.e2e.platform_process import PlatformProcess

STEPS = 600
JOB = {"max_steps": STEPS, "max_seq_length": 64, "batch_size": 2, "lora_r": 2, "lora_dropout": 0.1, "eval_every": 200}
MLFLOW_STATUS = {"RUNNING": "RUNNING", "PAUSED": "SCHEDULED", "COMPLETED": "FINISHED", "CANCELLED": "KILLED"}


def submit(platform: PlatformProcess, model_id: int, **changes: Any) -> int:
    whole = changes.get("method") == "full"  # then there is no adapter to shape
    job = {name: value for name, value in JOB.items() if not whole or name not in ADAPTER_FIELDS}
    return platform.train(model_id=model_id, **{**job, **changes})


def wait_for_step(platform: PlatformProcess, job_id: int, step: int) -> dict[str, Any]:
    """Return the job once it has done `step` steps, or more; it must still run then."""

    def reached() -> dict[str, Any] | None:
        job = platform.job(job_id)
        assert job["status"] in ("PENDING", "PAUSED", "RUNNING"), job
        # A trainer's first steps may come before Prefect's word that it runs.
        return job if job["step"] >= step and job["status"] == "RUNNING" else None

    return platform.wait_until(reached, 120, f"job {job_id} to reach step {step}")


def start(platform: PlatformProcess, model_id: int, **changes: Any) -> int:
    """Return the id of a job that has done a few steps."""
    job_id = submit(platform, model_id, **changes)
    wait_for_step(platform, job_id, 5)
    return job_id


def act(platform: PlatformProcess, job_id: int, action: str, status: int = 200) -> dict[str, Any]:
    """Pause, resume, cancel or restart through the API."""
    response = platform.http.post(f"/training/{job_id}/{action}")
    assert response.status_code == status, response.text
    return response.json()


def pause_as_prefects_ui_does(platform: PlatformProcess, flow_run_id: str) -> None:
    """With a time limit of five minutes, which must not end the pause."""
    limit = (datetime.now(UTC) + timedelta(seconds=300)).isoformat()
    details = {"pause_reschedule": True, "pause_timeout": limit}
    body = {"state": {"type": "PAUSED", "name": "Suspended", "state_details": details}, "force": False}
    httpx.post(f"{platform.prefect_url}/flow_runs/{flow_run_id}/set_state", json=body).raise_for_status()


def resume_as_prefects_ui_does(platform: PlatformProcess, flow_run_id: str) -> None:
    httpx.post(f"{platform.prefect_url}/flow_runs/{flow_run_id}/resume", json={}).raise_for_status()


def assert_off_the_device(job: dict[str, Any]) -> None:
    """A process that has ended holds nothing, even while its parent has not yet asked how it went."""
    try:
        assert psutil.Process(job["attempt"]["pid"]).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return


def assert_mlflow_agrees(platform: PlatformProcess, job_id: int) -> None:
    """MLflow shows the job's status within two seconds of the API's showing it."""
    job = platform.job(job_id)
    client = MlflowClient(platform.mlflow_url)

    def agrees() -> bool:
        run = client.get_run(job["mlflow_run_id"])
        return (run.info.status, run.data.tags["job_status"]) == (MLFLOW_STATUS[job["status"]], job["status"])

    platform.wait_until(agrees, 2, f"MLflow to show {job['status']}")


def history(platform: PlatformProcess, job: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Return what was logged of each metric that does not depend on the clock, by step; a step logged twice shows."""
    client = MlflowClient(platform.mlflow_url)
    return {
        name: sorted((point.step, point.value) for point in client.get_metric_history(job["mlflow_run_id"], name))
        for name in ("loss", "learning_rate", "eval_loss")
    }


def event_steps(platform: PlatformProcess, job: dict[str, Any]) -> list[int]:
    """Return the steps that clients were told of, in the order in which they were told."""
    page = platform.http.get(f"/training/{job['id']}/events").json()["events"]
    events = list(page)
    while page:
        page = platform.http.get(f"/training/{job['id']}/events", params={"after": events[-1]["id"]}).json()["events"]
        events += page
    return [event["data"]["step"] for event in events if event["kind"] == "step"]


def adapter_bytes(platform: PlatformProcess, job: dict[str, Any]) -> bytes:
    """Return the registered adapter of the one model that the job made."""
    ids = [model["id"] for model in platform.http.get("/models").json()["models"]]
    models = [platform.http.get(f"/models/{model_id}").json() for model_id in ids]
    made = [model["id"] for model in models if (model["parameters"] or {}).get("training_job_id") == job["id"]]
    assert made == [job["output_model_id"]]
    folder = MlflowClient(platform.mlflow_url).download_artifacts(job["mlflow_run_id"], "adapter")
    with open(f"{folder}/adapter_model.safetensors", "rb") as file:  # noqa: PTH123
        return file.read()


def assert_equals(platform: PlatformProcess, job_id: int, undisturbed: dict[str, Any]) -> dict[str, Any]:
    """Wait for the job's end; every number and the adapter's bytes must be those of the undisturbed one."""
    job = platform.wait_for_job(job_id, "COMPLETED")
    expected = history(platform, undisturbed)
    assert [step for step, _ in expected["loss"]] == list(range(1, STEPS + 1))
    assert history(platform, job) == expected
    assert [step for step, _ in expected["loss"]] == event_steps(platform, job)
    assert adapter_bytes(platform, job) == adapter_bytes(platform, undisturbed)
    assert_mlflow_agrees(platform, job_id)
    return job
