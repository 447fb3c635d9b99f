"""The reporter over real stores: what is no number holds nothing up, in the database and in MLflow."""

import logging
import math
import shutil
import time

import mlflow
import pytest
from mlflow import MlflowClient
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

from configs.recipe import FinetuneParameters
from registry.database import Database
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import job_of_parameters
from registry.tracking import TrackedRun
from tasks.job.lease import Lease
from tasks.job.log import JobLog
from tasks.job.reporter import Reporter
from tasks.job.trace import Trace
from tasks.training.observer import StepRecord

# MLflow's own warnings are not ours to fix.
pytestmark = pytest.mark.filterwarnings("default")

WAIT_SECONDS = 60


@pytest.fixture
def tracking_uri(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    # Prefect is away, and nobody starts a server of its own for that.
    away = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}
    with temporary_settings(away):
        yield f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow.set_tracking_uri(before)


@pytest.fixture
def database(tmp_path, migrated_sqlite):
    database = Database(f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path)}")
    yield database
    database.close()


def step(number: int, loss: float) -> StepRecord:
    return StepRecord(number, 3, 1, loss, 1e-4, 1.0, 8, 8 * number, 0.1, 80.0, (number,))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_reporting_goes_on_after_a_loss_that_is_no_number(tracking_uri, database, tmp_path, number):
    with database.transaction() as session:
        job_id = TrainingJobRepository(session).add(job_of_parameters(FinetuneParameters(model_id=1))).id
    run = TrackedRun(tracking_uri, "training", "a job", {"training_job_uid": "a-uid"})
    lease = Lease(database, TrainingJobRepository, job_id)
    log = JobLog(lease, logging.getLogger("test"))
    reporter = Reporter(database, job_id, run, log, Trace(tmp_path / "trace.jsonl"), lease)
    try:
        reporter.on_start(0, 3, 1)
        reporter.on_step(step(1, number))
        reporter.on_evaluation(1, number)
        reporter.flush()
        reporter.on_step(step(2, 0.5))
        reporter.on_evaluation(2, 0.25)
        # Not `flush`: the reporter's own thread has to bring it in.
        deadline = time.monotonic() + WAIT_SECONDS
        while _snapshot(database, job_id) != (2, 0.5, 0.25):
            assert time.monotonic() < deadline, _snapshot(database, job_id)
            time.sleep(0.1)
        reporter.flush()
    finally:
        reporter.close()
    with database.reading() as session:
        events = TrainingJobRepository(session).events(job_id)
    lease.end("completed")
    losses = [(e.kind, e.data["step"]) for e in events if e.kind in ("step", "evaluation")]
    assert losses == [("step", 1), ("evaluation", 1), ("step", 2), ("evaluation", 2)]
    # MLflow has the number as it was, or what its table has in its place.
    history = MlflowClient(tracking_uri).get_metric_history(run.run_id, "loss")
    assert [point.step for point in history] == [1, 2]
    assert not math.isfinite(history[0].value) or abs(history[0].value) > 1e308
    assert history[1].value == 0.5
    # A second attempt reads the trace of the first, and sends nothing twice.
    second = Lease(database, TrainingJobRepository, job_id)
    log = JobLog(second, logging.getLogger("test"))
    again = Reporter(database, job_id, run, log, Trace(tmp_path / "trace.jsonl"), second)
    again.flush()
    again.close()
    second.end("completed")
    assert len(MlflowClient(tracking_uri).get_metric_history(run.run_id, "loss")) == 2


def _snapshot(database: Database, job_id: int) -> tuple[int, float | None, float | None]:
    with database.reading() as session:
        job = TrainingJobRepository(session).require(job_id)
        return job.step, job.current_loss, job.eval_loss
