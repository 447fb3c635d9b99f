"""What people delete in Prefect's and MLflow's own UIs: noticed within seconds, said, and no checkpoint is lost."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient

from tests.e2e.platform_process import PlatformProcess
from tests.e2e.tiny_job import act, assert_equals, assert_off_the_device, start, submit

SECONDS = 30
"""Generous: the machine that runs the tests may be busy."""
POOL = "training"


def prefect(platform: PlatformProcess, method: str, path: str, **body: Any) -> Any:
    response = httpx.request(method, f"{platform.prefect_url}{path}", json=body or None, timeout=60)
    response.raise_for_status()
    return response.json() if response.content else None


def delete_flow_run(platform: PlatformProcess, job_id: int) -> None:
    prefect(platform, "DELETE", f"/flow_runs/{platform.job(job_id)['flow_run_id']}")


def delete_deployment(platform: PlatformProcess, _job_id: int) -> None:
    found = prefect(platform, "GET", "/deployments/name/finetune/finetune")
    prefect(platform, "DELETE", f"/deployments/{found['id']}")


def delete_work_pool(platform: PlatformProcess, _job_id: int) -> None:
    prefect(platform, "DELETE", f"/work_pools/{POOL}")


def delete_mlflow_run(platform: PlatformProcess, job_id: int) -> None:
    MlflowClient(platform.mlflow_url).delete_run(platform.job(job_id)["mlflow_run_id"])


def delete_experiment(platform: PlatformProcess, _job_id: int) -> None:
    client = MlflowClient(platform.mlflow_url)
    client.delete_experiment(client.get_experiment_by_name("training").experiment_id)


def running(platform: PlatformProcess, model_id: int) -> int:
    return start(platform, model_id)


def paused(platform: PlatformProcess, model_id: int) -> int:
    job_id = start(platform, model_id)
    act(platform, job_id, "pause")
    return job_id


def cancelled(platform: PlatformProcess, job_id: int) -> dict[str, Any]:
    job = platform.wait_for_job(job_id, "CANCELLED", seconds=SECONDS)
    assert "flow run was deleted in Prefect" in job["error"]
    platform.wait_until(
        lambda: platform.job(job_id)["attempt"] is None or left(platform, job_id), SECONDS, "it to leave"
    )
    assert platform.job(job_id)["output_model_id"] is None
    return job


def left(platform: PlatformProcess, job_id: int) -> bool:
    try:
        assert_off_the_device(platform.job(job_id))
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("state", [running, paused])
def test_a_job_whose_flow_run_is_deleted_stops_and_goes_on_exactly_when_restarted(
    platform, tiny_model, undisturbed, state
):
    job_id = state(platform, tiny_model)
    delete_flow_run(platform, job_id)
    step = cancelled(platform, job_id)["step"]
    assert act(platform, job_id, "restart")["status"] in ("PENDING", "RUNNING")
    job = assert_equals(platform, job_id, undisturbed)
    assert any(line.startswith("Resumed after step") for line in job["logs"].splitlines()), (step, job["logs"])


def test_a_job_whose_flow_run_is_deleted_can_be_deleted_too(platform, tiny_model):
    job_id = start(platform, tiny_model, max_steps=100_000)
    delete_flow_run(platform, job_id)
    cancelled(platform, job_id)
    assert platform.http.delete(f"/training/{job_id}").status_code == 200
    assert platform.http.get(f"/training/{job_id}").status_code == 404


def test_a_queued_job_whose_flow_run_is_deleted_is_cancelled(platform, tiny_model):
    first, second = start(platform, tiny_model, max_steps=100_000), submit(platform, tiny_model)
    delete_flow_run(platform, second)
    platform.wait_for_job(second, "CANCELLED", seconds=SECONDS)
    act(platform, first, "cancel")


@pytest.mark.parametrize("delete", [delete_deployment, delete_work_pool])
def test_what_a_job_needs_in_prefect_is_made_again_and_no_job_is_lost(
    platform: PlatformProcess,
    tiny_model: int,
    undisturbed: dict[str, Any],
    delete: Callable[[PlatformProcess, int], None],
):
    first = start(platform, tiny_model, max_steps=100_000)
    waiting = submit(platform, tiny_model)
    delete(platform, waiting)
    later = submit(platform, tiny_model)
    # Without a work pool it may take longer than an answer waits.
    platform.http.post(f"/training/{first}/cancel").raise_for_status()
    for job_id in (waiting, later):
        assert_equals(platform, job_id, undisturbed)


@pytest.mark.parametrize("delete", [delete_mlflow_run, delete_experiment])
def test_a_job_gets_another_mlflow_run_or_its_own_again(platform, tiny_model, undisturbed, delete):
    job_id = start(platform, tiny_model)
    before = platform.job(job_id)["mlflow_run_id"]
    delete(platform, job_id)
    job = assert_equals(platform, job_id, undisturbed)
    (line,) = (line for line in job["logs"].splitlines() if line.startswith("The MLflow "))
    assert "was deleted" in line
    assert (job["mlflow_run_id"] == before) == (delete is delete_experiment)
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["completed"]
    run = MlflowClient(platform.mlflow_url).get_run(job["mlflow_run_id"])
    assert run.data.params["max_steps"] == "600"
    assert run.data.tags["training_job_id"] == str(job_id)


def test_an_evaluation_whose_flow_run_is_deleted_is_cancelled_and_another_one_runs(platform, tiny_model):
    body = {"max_samples": 100, "max_new_tokens": 512}
    started = platform.http.post(f"/models/{tiny_model}/evaluate", params={"wait": False}, json=body)
    assert started.status_code in (200, 202), started.text
    evaluation_id = started.json()["id"]

    def shown(status: str) -> dict[str, Any] | None:
        found = platform.http.get(f"/evaluations/{evaluation_id}").json()
        return found if found["status"] == status else None

    platform.wait_until(lambda: shown("RUNNING"), 60, "the evaluation to run")
    flow_run_id = platform.http.get(f"/evaluations/{evaluation_id}").json()["flow_run_id"]
    prefect(platform, "DELETE", f"/flow_runs/{flow_run_id}")
    found = platform.wait_until(lambda: shown("CANCELLED"), SECONDS, "the evaluation to be cancelled")
    assert "deleted in Prefect" in found["error"]
    quick = platform.http.post(f"/models/{tiny_model}/evaluate", json={"max_samples": 2, "metrics": ["perplexity"]})
    assert quick.status_code == 201, quick.text
