"""A process dies, or the whole platform is stopped: an accepted job goes on by itself, and no step is logged twice."""

import signal

import psutil
import pytest
from mlflow import MlflowClient

STEPS = 600


@pytest.fixture(scope="module")
def tiny_model(platform):
    return platform.http.post("/models", json={"name": "Tiny", "base_model": "tiny-llama"}).json()["id"]


@pytest.fixture
def running_job(platform, tiny_model):
    """A job in the middle, with a checkpoint behind it."""
    job_id = platform.train(model_id=tiny_model, max_steps=STEPS, max_seq_length=64, batch_size=2, lora_r=2)
    folder = platform.data_dir / "jobs" / str(job_id) / "checkpoints"
    platform.wait_until(lambda: list(folder.glob("step-*")), 120, "a first checkpoint")
    job = platform.job(job_id)
    assert job["status"] == "RUNNING"
    return job


def assert_went_on(platform, job, attempts: int) -> None:
    done = platform.wait_for_job(job["id"], "COMPLETED")
    assert done["attempt"]["number"] == attempts
    assert done["step"] == STEPS
    assert "Resumed after step" in done["logs"]
    client = MlflowClient(platform.mlflow_url)
    assert client.get_run(done["mlflow_run_id"]).info.status == "FINISHED"
    steps = [point.step for point in client.get_metric_history(done["mlflow_run_id"], "loss")]
    assert sorted(steps) == list(range(1, STEPS + 1))


def test_a_killed_trainer_goes_on_from_its_checkpoint(platform, running_job):
    psutil.Process(running_job["attempt"]["pid"]).send_signal(signal.SIGKILL)
    assert_went_on(platform, running_job, attempts=2)


def test_a_stopped_platform_goes_on_where_it_was(platform, running_job):
    platform.stop()
    platform.start()
    assert_went_on(platform, running_job, attempts=2)


def test_a_killed_worker_leaves_a_job_that_goes_on(platform, running_job):
    trainer = psutil.Process(running_job["attempt"]["pid"])
    forkserver = trainer.parent()
    worker = forkserver.parent()
    worker.send_signal(signal.SIGKILL)
    platform.wait_until(lambda: not trainer.is_running(), 30, "the trainer to leave with its worker")
    assert_went_on(platform, running_job, attempts=2)
