"""MLflow tracking: one run per training job or evaluation, reopened by whoever goes on with it."""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS
from requests.exceptions import RequestException

from registry.tables import Model

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
# Which of its views MLflow's UI opens an experiment in: training runs, rather than chat traces.
EXPERIMENT_KIND = "mlflow.experimentKind"
# MLflow's server refuses larger batches.
METRICS_PER_BATCH = 1000
MAX_PARAM_LENGTH = 6000
RESOURCE_DOES_NOT_EXIST = "RESOURCE_DOES_NOT_EXIST"

Result = TypeVar("Result")


def until_available(action: Callable[[], Result], on_wait: Callable[[str], None], what: str) -> Result:
    """Return what `action` returns, trying again for as long as the MLflow server does not answer.

    A job that has been accepted waits for its tracking server rather than lose a number. `on_wait` is told once.
    """
    told = False
    while True:
        try:
            return action()
        except (MlflowException, RequestException) as error:
            if not is_outage(error):
                raise
            if not told:
                on_wait(f"Waiting for the MLflow server to {what}: {str(error).splitlines()[0][:200]}")
                told = True
            time.sleep(RETRY_SECONDS)


def is_outage(error: Exception) -> bool:
    """Return whether an error says that the server is away, rather than that the request is wrong."""
    if isinstance(error, RequestException):
        return True
    return isinstance(error, MlflowException) and error.get_http_status_code() >= 500


def version_tags(model: Model) -> dict[str, str]:
    """Return tags that link a run to the model version that it measures."""
    if not model.parameters:
        return {}
    return {
        "registered_model": model.parameters["registered_model"],
        "registered_model_version": model.parameters["registered_model_version"],
        "training_job_id": str(model.training_job_id),
    }


class TrackedRun:
    """An open MLflow run, and the metrics on their way to it."""

    def __init__(self, tracking_uri: str, experiment: str, name: str, tags: Mapping[str, str]) -> None:
        """Open the run that carries these tags, or make it: a killed process leaves its run open for the next one."""
        self.client = MlflowClient(tracking_uri)
        self.tracking_uri = tracking_uri
        self._experiment, self._name, self._identity = experiment, name, dict(tags)
        self.experiment_id = self._experiment_id(experiment)
        self.run_id = self._find(tags) or self._create(name, tags)
        self.on_replaced: Callable[[str, bool], None] | None = None
        """Told why, and whether the run has none of the metrics, when another run takes the place of a deleted one."""
        self._params: dict[str, Any] = {}
        self._tags: dict[str, str] = {}
        self._inputs: list[DatasetInput] = []
        self._pending: list[Metric] = []
        self._lock = threading.Lock()
        self._replacing = threading.Lock()

    @property
    def url(self) -> str:
        """Address of the run in MLflow's UI."""
        return f"{self.tracking_uri}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def _experiment_id(self, name: str) -> str:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is not None:
            if experiment.lifecycle_stage == LifecycleStage.DELETED:
                # MLflow keeps the name of a deleted one, and gives it to no other.
                self.client.restore_experiment(experiment.experiment_id)
                logger.warning("The MLflow experiment %s was deleted; it is restored, with its runs", name)
            return str(experiment.experiment_id)
        try:
            return str(self.client.create_experiment(name, tags={EXPERIMENT_KIND: "custom_model_development"}))
        except MlflowException:
            # Another process was first.
            experiment = self.client.get_experiment_by_name(name)
            if experiment is None:
                raise
            return str(experiment.experiment_id)

    def _find(self, tags: Mapping[str, str]) -> str | None:
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self.client.search_runs([self.experiment_id], query, max_results=1)
        if not found:
            return None
        return str(found[0].info.run_id)

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        run = self.client.create_run(self.experiment_id, run_name=name, tags=dict(tags))
        return str(run.info.run_id)

    def show_status(self, status: str) -> None:
        """Set the status of a run that no record stands behind: RUNNING, or FINISHED, FAILED or KILLED at its end."""
        if status == "RUNNING":
            self.client.update_run(self.run_id, status)
        else:
            self.client.set_terminated(self.run_id, status)

    def deliver(self, action: Callable[[], Result], on_wait: Callable[[str], None], what: str) -> Result:
        """Return what `action` returns, as `until_available` does; it is called again if the run was deleted meanwhile.

        Another run takes the place of a deleted one then, with its parameters and tags; see `on_replaced`.
        """

        def on_active_run() -> Result:
            while True:
                self.replace_if_deleted(self.run_id)
                used = self.run_id
                try:
                    return action()
                except MlflowException:
                    if not self.replace_if_deleted(used):
                        raise

        return until_available(on_active_run, on_wait, what)

    def replace_if_deleted(self, used: str) -> bool:
        """Return whether the run that was `used` is deleted, and another one is in its place now."""
        with self._replacing:
            if self.run_id != used:
                return True
            if not self._is_deleted(used):
                return False
            self.experiment_id = self._experiment_id(self._experiment)
            self.run_id = self._find(self._identity) or self._create(self._name, self._identity)
            empty = self.run_id != used
            if empty:
                self.client.log_batch(self.run_id, params=_params(self._params), tags=_run_tags(self._tags))
                if self._inputs:
                    self._log_inputs()
                why = f"The MLflow run {used} was deleted; run {self.run_id} takes its place"
            else:
                why = f"The MLflow experiment {self._experiment} was deleted; it is restored, with run {used}"
            if self.on_replaced is not None:
                self.on_replaced(why, empty)
            return True

    def _is_deleted(self, run_id: str) -> bool:
        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == LifecycleStage.DELETED)
        except MlflowException as error:
            if error.error_code != RESOURCE_DOES_NOT_EXIST:
                raise
            return True

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; the same ones again change nothing."""
        self._params |= params
        self.client.log_batch(self.run_id, params=_params(params))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags on the run."""
        self._tags |= tags
        self.client.log_batch(self.run_id, tags=_run_tags(tags))

    def log_dataset(self, name: str, digest: str, source: str, context: str, profile: str) -> None:
        """Link the data set that was used, by the hash of its content; once per run."""
        dataset = Dataset(
            name=name, digest=digest[:36], source_type="local", source=source, schema=None, profile=profile
        )
        tag = InputTag(key="mlflow.data.context", value=context)
        self._inputs = [DatasetInput(dataset=dataset, tags=[tag])]
        self._log_inputs()

    def _log_inputs(self) -> None:
        try:
            self.client.log_inputs(self.run_id, datasets=self._inputs)
        except MlflowException as error:
            if is_outage(error):
                raise
            # MLflow refuses the second of two runs that log a data set for the first time at one moment; now it is
            # there. An error that has another reason is raised again.
            self.client.log_inputs(self.run_id, datasets=self._inputs)

    def last_step(self, metric: str) -> int:
        """Return the highest step at which this metric was logged, or 0."""
        # MLflow keeps the newest point beside the history, which is as long as the job; only this private list has it.
        points = self.client.get_run(self.run_id).data._metric_objs
        return next((int(point.step) for point in points if point.key == metric), 0)

    def add_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue metrics of a step; `flush` sends them. Cheap: called between two training steps."""
        now = int(time.time() * 1000)
        with self._lock:
            self._pending.extend(Metric(name, float(value), now, step) for name, value in metrics.items())

    def forget_pending(self) -> None:
        """Drop what is queued: it is queued again, for another run."""
        with self._lock:
            self._pending = []

    def flush(self) -> None:
        """Send what is queued; what could not be sent stays queued, and the error is raised."""
        while True:
            with self._lock:
                pending, batch = self._pending, self._pending[:METRICS_PER_BATCH]
            if not batch:
                return
            used = self.run_id
            try:
                self.client.log_batch(used, metrics=batch)
            except MlflowException as error:
                if is_outage(error) or not self.replace_if_deleted(used):
                    raise
                continue
            with self._lock:
                # Not what another thread has queued for another run since.
                del pending[: len(batch)]

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Store a file as an artifact of the run."""
        self.client.log_artifact(self.run_id, str(path), folder)

    def log_folder(self, path: Path, folder: str) -> None:
        """Store a folder as artifacts of the run."""
        self.client.log_artifacts(self.run_id, str(path), folder)

    def log_table(self, columns: Mapping[str, list[Any]], name: str) -> None:
        """Store rows as a table that MLflow's UI shows, in place of one of that name; `name` ends with `.json`.

        Raises ValueError if the columns differ in length, or hold a number that JSON has no word for (nan, infinity).
        """
        # Not MLflow's own log_table: it appends, and an attempt that died may have stored these rows already.
        rows = list(zip(*columns.values(), strict=True))
        table = json.dumps({"columns": list(columns), "data": rows}, allow_nan=False)
        self.client.log_text(self.run_id, table, name)
        tables = json.loads(self.client.get_run(self.run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        entry = {"path": name, "type": "table"}
        if entry not in tables:
            self.set_tags({MLFLOW_LOGGED_ARTIFACTS: json.dumps([*tables, entry])})


def _params(params: Mapping[str, Any]) -> list[Param]:
    return [Param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in params.items()]


def _run_tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, value) for key, value in tags.items()]
