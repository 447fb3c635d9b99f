"""One process's turn at a training job: claims it, opens its stores, and leaves it in order however it ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from prefect.artifacts import create_link_artifact
from prefect.exceptions import Pause
from prefect.logging import get_run_logger

from configs.recipe import FinetuneParameters, TrainingRecipe
from configs.settings import Settings, get_settings
from registry.attempts import attempt_is_alive
from registry.database import Database
from registry.repositories.flow_backed import LeaseLost
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import JOB_TAG, job_of_parameters
from registry.tables import Model, TrainingJob
from registry.tracking import Result, TrackedRun, until_available
from tasks.job.flow_run import (
    DATABASE_PATIENCE_SECONDS,
    RunDeleted,
    RunWatch,
    claim,
    current_flow_run,
    full_disks_named,
    recorded_attempt,
)
from tasks.job.folder import JobFolder
from tasks.job.lease import Lease
from tasks.job.log import JobLog
from tasks.job.reporter import Reporter
from tasks.job.trace import Trace

EXPERIMENT = "training"
LOCK_POLL_SECONDS = 1.0


class Attempt:
    """What the tasks of one flow run share: the job, its settings, its folder, and where it reports."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        job: TrainingJob,
        model: Model,
        lease: Lease[TrainingJob],
        *,
        killed_for_memory: bool,
    ) -> None:
        self.settings = settings
        self.database = database
        self.job_id = job.id
        self.job_uid = job.uid
        self.job_name = job.job_name
        self.recipe = TrainingRecipe.model_validate(job.recipe)
        self.model = model
        self.files = JobFolder(settings.jobs_dir, job.id)
        self.lease = lease
        self.log = JobLog(lease, get_run_logger())
        self.watch = RunWatch(lease)
        self.run: TrackedRun
        self.reporter: Reporter
        self.killed_for_memory = killed_for_memory
        """Whether the attempt before this one was."""

    @property
    def folder(self) -> Path:
        """The job's working folder."""
        return self.files.path

    def deliver(self, action: Callable[[], Result], what: str) -> Result:
        """Return what `action` returns, which tells MLflow something: waits for its server, as long as that takes.

        Should the job's run be deleted there, another one is made, with all that it had, and told instead.
        """
        return self.run.deliver(action, self.log.announce, what)


@contextmanager
def begin_attempt(parameters: FinetuneParameters) -> Iterator[Attempt]:
    """Claim the flow run's job for this process and yield it; on leaving, say how it went.

    Raises `UnknownModel` for a run started from Prefect's form with a model that does not exist.
    """
    settings = get_settings()
    with full_disks_named(settings.data_dir), _begun(settings, parameters) as attempt:
        yield attempt


@contextmanager
def _begun(settings: Settings, parameters: FinetuneParameters) -> Iterator[Attempt]:
    database = Database(settings.platform_database_url, DATABASE_PATIENCE_SECONDS)
    job, model = claim(
        database,
        TrainingJobRepository,
        JOB_TAG,
        parameters.model_id,
        lambda flow_run_id: job_of_parameters(parameters, flow_run_id),
    )
    folder = JobFolder(settings.jobs_dir, job.id).path
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _held_folder(folder, database, job.id):
            with database.reading() as session:
                killed_for_memory = TrainingJobRepository(session).was_killed_for_memory(job)
            with recorded_attempt(database, TrainingJobRepository, job.id) as lease:
                attempt = Attempt(settings, database, job, model, lease, killed_for_memory=killed_for_memory)
                try:
                    _open_stores(attempt)
                    with _tracked(attempt), full_disks_named(attempt.folder):
                        yield attempt
                finally:
                    attempt.watch.close()
    finally:
        database.close()


@contextmanager
def _held_folder(folder: Path, database: Database, job_id: int) -> Iterator[None]:
    """Wait until a process that is still leaving has finished, but not for one that has lost its lease.

    That one may hold the folder's lock for ever, stopped as it may be; whatever it does when it goes on, it is told
    first that the job is another's.
    """
    lock = FileLock(folder / "lock")
    try:
        while True:
            with suppress(Timeout):
                lock.acquire(timeout=LOCK_POLL_SECONDS)
                break
            with database.reading() as session:
                if not attempt_is_alive(TrainingJobRepository(session).require(job_id)):
                    break
        yield
    finally:
        lock.release()


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
    _link(attempt)
    create_link_artifact(
        attempt.run.url, link_text=f"MLflow run of training job {attempt.job_id}", key=f"mlflow-job-{attempt.job_id}"
    )
    trace = Trace(attempt.files.trace)
    attempt.reporter = attempt.deliver(
        lambda: Reporter(attempt.database, attempt.job_id, attempt.run, attempt.log, trace, attempt.lease),
        "read what it has of the job's metrics",
    )
    attempt.run.on_replaced = lambda why, empty: _replaced(attempt, why, empty=empty)


def _link(attempt: Attempt) -> None:
    with attempt.lease.writing() as (session, job):
        TrainingJobRepository(session).link_mlflow_run(job, attempt.run.run_id)


def _replaced(attempt: Attempt, why: str, *, empty: bool) -> None:
    """Go on with another MLflow run: every number is sent again, from the job's own record of its steps."""
    if empty:
        attempt.reporter.send_all_again()
        why = f"{why}, and the metrics of all steps are sent again"
    _link(attempt)
    attempt.log.announce(why)


@contextmanager
def _tracked(attempt: Attempt) -> Iterator[None]:
    """Leave with every number delivered; which status the MLflow run has is the API's business, as it is Prefect's."""
    try:
        yield
    except LeaseLost:
        raise
    except Pause:
        _deliver(attempt)
        raise
    except RunDeleted as error:
        attempt.log.line(f"Stopped: {error}")
        _deliver_at_once(attempt)
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
    attempt.deliver(attempt.reporter.flush, "take the last metrics")


def _deliver_at_once(attempt: Attempt) -> None:
    """Try once: a process that is stopped has 30 seconds before it is killed, so nothing here waits for a server."""
    try:
        attempt.reporter.flush()
    except LeaseLost:
        raise
    except Exception as error:  # noqa: BLE001 - leaving anyway; what could not be sent is in the trace
        attempt.log.line(f"MLflow did not take the last metrics: {error}")
        attempt.log.flush()
