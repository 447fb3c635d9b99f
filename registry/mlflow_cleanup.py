"""Removes from MLflow's store what was deleted there: `python -m registry.mlflow_cleanup`, a request on its input.

A process of its own: MLflow's library is large, and who asks (the controller, a command) has it not. What `mlflow gc`
does not look at is looked at here: runs of our records, and what a registered version refers to, stay.
"""

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from mlflow.entities import ViewType
from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlModelVersionTag
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as VersionStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as RunStore
from mlflow.utils.time import get_current_time_millis
from pydantic import BaseModel
from sqlalchemy import func

EXPERIMENTS = ("training", "evaluation")
UID_TAGS = ("training_job_uid", "evaluation_uid")
ENDED = ("FINISHED", "FAILED", "KILLED")
PAGE = 1000
ARTIFACTS = "mlflow-artifacts:/"
MODEL_SOURCE = "models:/"


class CleanupRequest(BaseModel):
    """What is to be removed, and what is referred to."""

    store: str
    """SQLAlchemy URL of MLflow's store."""
    artifacts: Path
    """Folder that MLflow's server keeps artifacts in."""
    older_than_seconds: float
    uids: set[str]
    """Of all jobs and evaluations."""
    runs: set[str]
    """Runs that a record refers to."""
    versions: list[tuple[str, str]]
    """Name and version of models that were deleted that long ago."""
    dry_run: bool


class CleanupAnswer(BaseModel):
    """What was removed, or would be."""

    deleted_runs: int = 0
    """Runs whose record is gone: from now on they are deleted, and can be restored."""
    versions: int = 0
    runs: int = 0
    """Deleted runs, removed for good."""
    models: int = 0
    """Logged models, removed for good."""
    freed_bytes: int = 0
    removed_versions: int = 0
    """Deleted versions, removed for good."""
    registered_runs: list[str] = []
    """Runs whose models were registered versions when the pass began."""

    @property
    def count(self) -> int:
        """How many of all of them."""
        return self.deleted_runs + self.versions + self.runs + self.models + self.removed_versions


class Cleanup:
    """One pass over MLflow's store."""

    def __init__(self, request: CleanupRequest) -> None:
        self._request = request
        self._runs = RunStore(request.store, ARTIFACTS)
        self._versions = VersionStore(request.store)
        self.answer = CleanupAnswer()

    def run(self) -> None:
        """Remove for good what was deleted long enough ago; then delete what nothing refers to any more.

        In this order: what a pass deletes can be restored until the next one, whatever the settings say.
        """
        referred = list(self._referred())
        self.answer.registered_runs = sorted({run for _, run in referred if run})
        sources, runs = {model for model, _ in referred}, {run for _, run in referred} | self._request.runs
        older_than = int(self._request.older_than_seconds * 1000)
        for run in self._runs._get_deleted_runs(older_than):
            if run not in runs:
                self._remove_run(run)
        for model in self._runs._get_deleted_logged_models(older_than):
            if model not in sources:
                self._remove_model(model)
        self._remove_deleted_versions(get_current_time_millis() - older_than)
        for name, version in self._request.versions:
            self._remove_version(name, version)
        for run in self._runs_without_record(runs):
            self.answer.deleted_runs += 1
            if not self._request.dry_run:
                self._runs.delete_run(run)

    def _remove_version(self, name: str, version: str) -> None:
        """Delete a version, unless it has an alias: whoever loads the champion goes on."""
        try:
            found = self._versions.get_model_version(name, version)
        except MlflowException:
            return
        if found.aliases:
            return
        self.answer.versions += 1
        if self._request.dry_run:
            return
        self._versions.delete_model_version(name, version)
        model = (found.source or "").removeprefix(MODEL_SOURCE)
        with contextlib.suppress(MlflowException):
            self._runs.delete_logged_model(model)

    def _remove_deleted_versions(self, before: int) -> None:
        """Remove the rows, with their tags, of versions that were deleted before a moment (milliseconds since 1970).

        MLflow keeps them for ever, and reads all of them to number the next one: the newest of each name stays for
        that.
        """
        key = (SqlModelVersion.workspace, SqlModelVersion.name, SqlModelVersion.version)
        with self._versions.ManagedSessionMaker(read_only=False) as session:
            highest = func.max(SqlModelVersion.version)
            newest = session.query(*key[:2], highest).group_by(*key[:2]).all()
            old = session.query(*key).filter(
                SqlModelVersion.current_stage == STAGE_DELETED_INTERNAL, SqlModelVersion.last_updated_time <= before
            )
            gone = [tuple(one) for one in old if one not in newest]
            self.answer.removed_versions += len(gone)
            for workspace, name, version in [] if self._request.dry_run else gone:
                for table in (SqlModelVersionTag, SqlModelVersion):
                    session.query(table).filter_by(workspace=workspace, name=name, version=version).delete()

    def _referred(self) -> Iterator[tuple[str, str]]:
        """Yield logged model and run of every registered version."""
        token = None
        while True:
            page = self._versions.search_model_versions(max_results=PAGE, page_token=token)
            for version in page:
                yield (version.source or "").removeprefix(MODEL_SOURCE), version.run_id or ""
            token = page.token
            if not token:
                return

    def _runs_without_record(self, referred: set[str]) -> list[str]:
        """Return ended runs of ours whose job or evaluation is gone, and that no model came from."""
        found, token = [], None
        experiments = [self._runs.get_experiment_by_name(name) for name in EXPERIMENTS]
        ids = [one.experiment_id for one in experiments if one is not None]
        while ids:
            page = self._runs.search_runs(ids, "", ViewType.ACTIVE_ONLY, max_results=PAGE, page_token=token)
            for run in page:
                uids = {run.data.tags[tag] for tag in UID_TAGS if tag in run.data.tags}
                ours = bool(uids) and not uids & self._request.uids
                if ours and run.info.run_id not in referred and run.info.status in ENDED:
                    found.append(run.info.run_id)
            token = page.token
            if not token:
                break
        return found

    def _remove_run(self, run_id: str) -> None:
        run = self._runs.get_run(run_id)
        self._remove_artifacts(run.info.artifact_uri)
        self.answer.runs += 1
        if not self._request.dry_run:
            self._runs._hard_delete_run(run_id)

    def _remove_model(self, model_id: str) -> None:
        model = self._runs.get_logged_model(model_id, allow_deleted=True)
        self._remove_artifacts(model.artifact_location)
        self.answer.models += 1
        if not self._request.dry_run:
            self._runs._hard_delete_logged_model(model_id)

    def _remove_artifacts(self, uri: str) -> None:
        """Remove the folder around `artifacts`, before its row: a row without files is found again, the files not."""
        if not uri.startswith(ARTIFACTS):
            return
        root = self._request.artifacts.resolve()
        folder = (root / uri.removeprefix(ARTIFACTS).lstrip("/")).resolve().parent
        if root not in folder.parents or not folder.is_dir():
            return
        self.answer.freed_bytes += _freed_by(folder)
        if not self._request.dry_run:
            shutil.rmtree(folder)


def _freed_by(folder: Path) -> int:
    files = [path.lstat() for path in folder.rglob("*") if not path.is_dir()]
    return sum(status.st_blocks * 512 for status in files if status.st_nlink == 1)


def main() -> None:
    """Answer one request."""
    cleanup = Cleanup(CleanupRequest.model_validate(json.load(sys.stdin)))
    # MLflow prints now and then; the answer is alone on the output.
    with contextlib.redirect_stdout(sys.stderr):
        cleanup.run()
    sys.stdout.write(cleanup.answer.model_dump_json())


if __name__ == "__main__":
    main()
