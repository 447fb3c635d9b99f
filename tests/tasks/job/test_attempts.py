"""Trainers whose lease is lost, or whose runs people delete: what they still write, and how their jobs go on."""

import signal
from typing import Any

import pytest
from mlflow import MlflowClient

from registry.repositories.training_jobs import TrainingJobRepository
from tasks.job.folder import JobFolder
from tests.tasks.job.conftest import Servers, until

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]
STEPS = 300
JOB: dict[str, Any] = {"max_steps": STEPS, "max_seq_length": 64, "batch_size": 2, "lora_r": 2, "eval_every": 100}


def reach(servers: Servers, job_id: int, process: Any, step: int) -> None:
    def reached() -> bool:
        assert process.poll() is None, servers.log(f"trainer-{job_id}")
        return servers.job(job_id).step >= step

    until(reached, f"step {step}")


def adapter(servers: Servers, job_id: int) -> bytes:
    model = servers.models_of(job_id)
    assert model is not None
    assert model.adapter is not None
    return (servers.settings.adapters_dir / model.adapter / "adapter_model.safetensors").read_bytes()


def history(servers: Servers, job_id: int) -> list[tuple[int, float]]:
    points = MlflowClient(servers.settings.mlflow_url).get_metric_history(servers.job(job_id).mlflow_run_id, "loss")
    return sorted((point.step, point.value) for point in points)


@pytest.fixture(scope="module")
def undisturbed(servers):
    job_id = servers.submit(**JOB)
    assert servers.train(job_id).wait(300) == 0, servers.log(f"trainer-{job_id}")
    servers.reconcile()
    assert servers.job(job_id).status == "COMPLETED", servers.log(f"trainer-{job_id}")
    return job_id


def assert_equal(servers: Servers, job_id: int, undisturbed: int, *, once: bool = True) -> None:
    """`once`: MLflow has each number once; it has no fence, so what was on its way to it may come twice."""
    servers.reconcile()
    job = servers.job(job_id)
    assert (job.status, job.step) == ("COMPLETED", STEPS), (job.error, servers.log_lines(job_id))
    assert [step for step, _ in servers.losses(job_id)] == list(range(1, STEPS + 1))
    assert servers.losses(job_id) == servers.losses(undisturbed)
    points = history(servers, job_id)
    assert (points if once else sorted(set(points))) == history(servers, undisturbed)
    assert adapter(servers, job_id) == adapter(servers, undisturbed)


def test_a_trainer_that_was_stopped_past_its_lease_writes_nothing_more_and_leaves(servers, undisturbed):
    job_id = servers.submit(**JOB)
    first = servers.train(job_id)
    reach(servers, job_id, first, 20)
    first.send_signal(signal.SIGSTOP)
    # What the reconciler does when the lease has run out (tests/registry/test_attempts.py: when that is).
    with servers.database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.count_crash(jobs.require(job_id))
    second = servers.train(job_id)  # waits for no lock of a stopped process
    until(lambda: servers.job(job_id).attempt == 2, "the second attempt to begin")
    reach(servers, job_id, second, 40)
    first.send_signal(signal.SIGCONT)
    assert first.wait(120) == 0
    assert servers.job(job_id).attempt == 2
    assert second.wait(300) == 0, servers.log(f"trainer-{job_id}")
    assert servers.outcomes(job_id) == ["died", "completed"]
    assert_equal(servers, job_id, undisturbed, once=False)


@pytest.mark.parametrize("paused", [False, True])
def test_a_job_whose_flow_run_is_deleted_stops_and_goes_on_exactly(servers, undisturbed, paused):
    job_id = servers.submit(**JOB)
    process = servers.train(job_id)
    reach(servers, job_id, process, 20)
    flow_run_id = servers.job(job_id).flow_run_id
    if paused:
        state = {"type": "PAUSED", "name": "Suspended", "state_details": {"pause_reschedule": True}}
        servers.prefect.post(f"/flow_runs/{flow_run_id}/set_state", json={"state": state}).raise_for_status()
        assert process.wait(120) == 0
        servers.reconcile()
        assert servers.job(job_id).status == "PAUSED"
    servers.prefect.delete(f"/flow_runs/{flow_run_id}").raise_for_status()
    assert process.wait(120) == 0
    servers.reconcile()
    job = servers.job(job_id)
    assert (job.status, job.flow_run_id, job.output_model_id) == ("CANCELLED", None, None)
    assert "deleted in Prefect" in (job.error or "")
    assert servers.models_of(job_id) is None
    assert 20 <= job.step < STEPS
    assert list(JobFolder(servers.settings.jobs_dir, job_id).checkpoints.glob("step-*"))
    with servers.database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.submit_again(jobs.require(job_id))
    servers.reconcile()
    assert servers.job(job_id).flow_run_id not in (None, flow_run_id)
    assert servers.train(job_id).wait(300) == 0, servers.log(f"trainer-{job_id}")
    assert f"Resumed after step {job.step} of {STEPS}" in servers.log_lines(job_id)
    assert_equal(servers, job_id, undisturbed)


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_a_job_gets_another_mlflow_run_or_its_own_again(servers, undisturbed, what):
    client = MlflowClient(servers.settings.mlflow_url)
    job_id = servers.submit(**JOB)
    process = servers.train(job_id)
    reach(servers, job_id, process, 20)
    before = servers.job(job_id).mlflow_run_id
    if what == "run":
        client.delete_run(before)
    else:
        client.delete_experiment(client.get_run(before).info.experiment_id)
    assert process.wait(300) == 0, servers.log(f"trainer-{job_id}")
    assert (servers.job(job_id).mlflow_run_id == before) == (what == "experiment")
    (line,) = (line for line in servers.log_lines(job_id) if "was deleted" in line)
    assert what in line
    run = client.get_run(servers.job(job_id).mlflow_run_id)
    assert (run.data.params["max_steps"], run.data.tags["training_job_id"]) == (str(STEPS), str(job_id))
    assert_equal(servers, job_id, undisturbed)


def test_a_queued_job_whose_deployment_is_deleted_is_submitted_again(servers):
    job_id = servers.submit(**JOB)
    flow_run_id = servers.job(job_id).flow_run_id
    deployment = servers.prefect.get("/deployments/name/finetune/finetune").json()
    servers.prefect.delete(f"/deployments/{deployment['id']}").raise_for_status()
    servers.register()  # as the worker does by itself (tests/flows/test_worker.py)
    servers.reconcile()
    servers.reconcile()
    job = servers.job(job_id)
    assert job.status == "PENDING"
    assert job.flow_run_id not in (None, flow_run_id)
    servers.prefect.delete(f"/flow_runs/{job.flow_run_id}").raise_for_status()
    servers.reconcile()
    assert servers.job(job_id).status == "CANCELLED"  # this one somebody wanted gone


def test_a_queued_job_whose_work_pool_is_deleted_is_submitted_again(servers):
    job_id = servers.submit(**JOB)
    flow_run_id = servers.job(job_id).flow_run_id
    servers.prefect.delete("/work_pools/training").raise_for_status()
    servers.register()  # as the worker does by itself (tests/flows/test_worker.py)
    servers.reconcile()
    servers.reconcile()
    job = servers.job(job_id)
    assert (job.status, job.flow_run_id == flow_run_id) == ("PENDING", False)
    run = servers.prefect.get(f"/flow_runs/{job.flow_run_id}").json()
    assert run["work_pool_name"] == "training"
    old = servers.prefect.get(f"/flow_runs/{flow_run_id}").json()
    assert old["state"]["type"] == "CANCELLED"
