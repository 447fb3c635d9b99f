"""One process's turn at a training job: claims it, opens its stores, and leaves it in order however it ends."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.logging import get_run_logger

from configs.recipe import FinetuneParameters, TrainingRecipe
from configs.settings import Settings, get_settings
from registry.database import Database
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import JOB_TAG, job_of_parameters
from registry.tables import Model, TrainingJob
from registry.tracking import TrackedRun, until_available
from tasks.file_lock import exclusive
from tasks.job.flow_run import claim, current_flow_run, full_disks_named, recorded_attempt
from tasks.job.folder import JobFolder
from tasks.job.log import JobLog
from tasks.job.reporter import Reporter
from tasks.job.trace import Trace

EXPERIMENT = "training"
POLL_SECONDS = 2.0


class Attempt:
    """What the tasks of one flow run share: the job, its settings, its folder, and where it reports."""

    def __init__(self, settings: Settings, database: Database, job: TrainingJob, model: Model, log: JobLog) -> None:
        self.settings = settings
        self.database = database
        self.job_id = job.id
        self.job_uid = job.uid
        self.job_name = job.job_name
        self.recipe = TrainingRecipe.model_validate(job.recipe)
        self.model = model
        self.files = JobFolder(settings.jobs_dir, job.id)
        self.log = log
        self.run: TrackedRun
        self.reporter: Reporter
        with database.reading() as session:
            self.killed_for_memory = TrainingJobRepository(session).was_killed_for_memory(job)
            """Whether the attempt before this one was."""

    @property
    def folder(self) -> Path:
        """The job's working folder."""
        return self.files.path


@contextmanager
def begin_attempt(parameters: FinetuneParameters) -> Iterator[Attempt]:
    """Claim the flow run's job for this process and yield it; on leaving, say how it went.

    Raises `UnknownModel` for a run started from Prefect's form with a model that does not exist.
    """
    settings = get_settings()
    database = Database(settings.platform_database_url)
    job, model = claim(
        database,
        TrainingJobRepository,
        JOB_TAG,
        parameters.model_id,
        lambda flow_run_id: job_of_parameters(parameters, flow_run_id),
    )
    attempt = Attempt(settings, database, job, model, JobLog(database, job.id, get_run_logger()))
    attempt.folder.mkdir(parents=True, exist_ok=True)
    # A process that is still leaving finishes first, and two never train the same job.
    with exclusive(attempt.folder / "lock"):
        try:
            with recorded_attempt(database, TrainingJobRepository, job.id):
                _open_stores(attempt)
                with _tracked(attempt), full_disks_named(attempt.folder):
                    yield attempt
        finally:
            attempt.log.flush()
            database.close()


def _open_stores(attempt: Attempt) -> None:
    """Open the job's MLflow run, waiting for the server if need be, and link it from Prefect."""
    tags = {
        "training_job_id": str(attempt.job_id),
        "training_job_uid": attempt.job_uid,
        "model_id": str(attempt.model.id),
        "prefect.flow_run_id": str(current_flow_run().id),
    }
    identity = {"training_job_uid": attempt.job_uid}

    def open_run() -> TrackedRun:
        run = TrackedRun(attempt.settings.mlflow_url, EXPERIMENT, attempt.job_name, identity)
        run.set_tags(tags)
        run.log_params({**attempt.recipe.hyperparameters(), "base_model": attempt.model.base_model})
        return run

    attempt.run = until_available(open_run, attempt.log.announce, "open the job's run")
    with attempt.database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.link_mlflow_run(jobs.require(attempt.job_id), attempt.run.run_id)
    create_link_artifact(
        attempt.run.url, link_text=f"MLflow run of training job {attempt.job_id}", key=f"mlflow-job-{attempt.job_id}"
    )
    trace = Trace(attempt.files.trace)
    attempt.reporter = until_available(
        lambda: Reporter(attempt.database, attempt.job_id, attempt.run, attempt.log, trace),
        attempt.log.announce,
        "read what it has of the job's metrics",
    )


@contextmanager
def _tracked(attempt: Attempt) -> Iterator[None]:
    """Leave with every number delivered; which status the MLflow run has is the API's business, as it is Prefect's."""
    try:
        yield
    except Pause:
        _deliver(attempt)
        raise
    except Exception as error:
        attempt.log.line(f"Failed: {error}")
        _deliver(attempt)
        raise
    except BaseException:
        attempt.log.line("Stopped before the end")
        _deliver_at_once(attempt)
        raise
    else:
        _deliver(attempt)
    finally:
        attempt.reporter.close()


def _deliver(attempt: Attempt) -> None:
    until_available(attempt.reporter.flush, attempt.log.announce, "take the last metrics")


def _deliver_at_once(attempt: Attempt) -> None:
    """Try once: a process that is stopped has 30 seconds before it is killed, so nothing here waits for a server."""
    try:
        attempt.reporter.flush()
    except Exception as error:  # noqa: BLE001 - leaving anyway; what could not be sent is in the trace
        attempt.log.line(f"MLflow did not take the last metrics: {error}")


class PauseWatch:
    """Notices a pause, whoever asked for it: Prefect's own notice first, and a poll of our own every two seconds."""

    def __init__(self) -> None:
        context = FlowRunContext.get()
        assert context is not None
        self._request = context.flow_run_suspension_request
        self._flow_run_id = current_flow_run().id
        self._polled: State[Any] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="pause watch", daemon=True)
        self._thread.start()

    def requested(self) -> bool:
        """Return whether a pause was asked for; cheap enough for every step."""
        return self._polled is not None or self._request.is_requested()

    def leave(self) -> None:
        """End the flow as suspended, by raising `Pause`."""
        self._stop.set()
        state = self._request.get_state() or self._polled
        assert state is not None
        raise Pause(state=state)

    def _poll(self) -> None:
        with get_client(sync_client=True) as client:
            while not self._stop.wait(POLL_SECONDS):
                try:
                    state = client.read_flow_run(self._flow_run_id).state
                except Exception:  # noqa: BLE001 - the server is away: asked again in two seconds
                    time.sleep(POLL_SECONDS)
                    continue
                if state is not None and state.is_paused():
                    self._polled = state
                    return
