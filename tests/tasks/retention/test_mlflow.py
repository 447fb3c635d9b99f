"""What goes from a real MLflow store, what stays because something refers to it, and copies that become links."""

import sqlite3
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from registry.clock import utcnow
from registry.repositories.training_jobs import TrainingJobRepository
from registry.tables import Dataset, Model
from tasks.retention import mlflow_runs
from tasks.retention.mlflow_runs import CleanupFailed
from tasks.retention.rule import Context

# MLflow's own warnings are not ours to fix.
pytestmark = pytest.mark.filterwarnings("default")


class Store:
    """MLflow's store as its server has it: runs' artifacts are named by `mlflow-artifacts:`."""

    def __init__(self, settings) -> None:
        self.artifacts = settings.mlflow_artifacts_dir
        self.runs = SqlAlchemyStore(settings.mlflow_store_url, "mlflow-artifacts:/")
        self.client = MlflowClient(settings.mlflow_store_url)
        self.experiment = self.runs.create_experiment("training")

    def run(self, uid: str, deleted=False) -> tuple[str, Path]:
        run = self.client.create_run(self.experiment, tags={"training_job_uid": uid})
        folder = self.artifacts / self.experiment / run.info.run_id
        (folder / "artifacts").mkdir(parents=True)
        (folder / "artifacts" / "curve.png").write_bytes(b"x" * 9000)
        self.client.set_terminated(run.info.run_id)
        if deleted:
            self.client.delete_run(run.info.run_id)
        return run.info.run_id, folder

    def version(self, run_id: str, name="base") -> str:
        with suppress(mlflow.MlflowException):
            self.client.create_registered_model(name)
        return self.client.create_model_version(name, f"runs:/{run_id}/adapter", run_id).version

    def stages(self) -> dict[str, str]:
        runs = self.client.search_runs([self.experiment], run_view_type=ViewType.ALL)
        return {run.info.run_id: run.info.lifecycle_stage for run in runs}


@pytest.fixture
def store(world, settings):
    world.settings = settings.model_copy(update={"keep_deleted_days": 7.0})
    return Store(settings)


def test_what_nothing_refers_to_goes_in_two_steps(world, store):
    job, registered_job = world.job(), world.job()
    with world.database.transaction() as session:
        kept_run, kept_folder = store.run(job.uid, deleted=True)
        TrainingJobRepository(session).require(job.id).mlflow_run_id = kept_run
    registered, _ = store.run(uuid4().hex, deleted=True)
    store.version(registered)
    of_model, _ = store.run(uuid4().hex)
    world.model(job=registered_job, adapter="a", parameters={"mlflow_run_id": of_model})
    gone, gone_folder = store.run(uuid4().hex, deleted=True)
    orphan, orphan_folder = store.run(uuid4().hex)

    planned = world.collect(dry_run=True)
    assert set(store.stages()) == {kept_run, registered, of_model, gone, orphan}
    (mlflow_rule,) = [one for one in planned.removed if one.rule == "mlflow"]
    assert (mlflow_rule.count, mlflow_rule.size >= 9000) == (2, True)

    report = world.collect()
    assert report.failures == []
    assert store.stages() == {
        kept_run: "deleted",
        registered: "deleted",
        of_model: "active",
        orphan: "deleted",
    }
    assert not gone_folder.exists()
    assert kept_folder.is_dir()
    assert orphan_folder.is_dir()


def test_a_deleted_models_version_goes_unless_it_is_the_champion(world, store):
    run, _ = store.run(uuid4().hex)
    versions = [store.version(run) for _ in range(3)]
    store.client.set_registered_model_alias("base", "champion", versions[0])
    for number, deleted in ((0, True), (1, True), (2, False)):
        parameters = {"registered_model": "base", "registered_model_version": str(versions[number])}
        world.model(job=world.job(), deleted=deleted, parameters={**parameters, "mlflow_run_id": run})
    assert world.collect(days=1).failures == []
    assert len(store.client.search_model_versions("name = 'base'")) == 3
    assert world.collect().failures == []
    left = {str(one.version) for one in store.client.search_model_versions("name = 'base'")}
    assert left == {str(versions[0]), str(versions[2])}


def test_rows_of_deleted_versions_go_and_their_numbers_are_not_given_again(world, store):
    run, _ = store.run(uuid4().hex)
    versions = [str(store.version(run)) for _ in range(4)]
    for version in versions:
        store.client.set_model_version_tag("base", version, "training_job_id", version)
    for version in (versions[0], versions[1], versions[3]):
        store.client.delete_model_version("base", version)
    assert world.collect(days=1).count == 0
    (removed,) = [one for one in world.collect().removed if one.rule == "mlflow"]
    assert (removed.count, "2 deleted versions" in removed.what) == (2, True)
    with sqlite3.connect(world.settings.data_dir / "mlflow.db") as connection:
        for table in ("model_versions", "model_version_tags"):
            left = {str(row[0]) for row in connection.execute(f"SELECT DISTINCT version FROM {table}")}
            assert left == {versions[2], versions[3]}
    assert int(store.version(run)) == int(versions[3]) + 1


def test_a_deleted_models_record_goes_after_its_version_and_the_champions_stays(world, store):
    runs = [store.run(uuid4().hex)[0] for _ in range(3)]
    versions = [store.version(run) for run in runs]
    store.client.set_registered_model_alias("base", "champion", versions[1])
    jobs: list[int] = []
    for run, version in zip(runs, versions, strict=True):
        named = {"registered_model": "base", "registered_model_version": str(version), "mlflow_run_id": run}
        job = world.job()
        model = world.model(job=job, deleted=True, parameters=named)
        jobs.append(job.id)
    with world.database.transaction() as session:
        repository = TrainingJobRepository(session)
        for job_id in jobs:
            repository.remove(repository.require(job_id))
    done = [[one.what.partition(":")[0] for one in world.collect().removed] for _ in range(2)]
    assert done == [["MLflow"], ["1 records of deleted models", "MLflow"]]
    with world.database.reading() as session:
        kept = {one.parameters["mlflow_run_id"] for one in session.query(Model) if one.parameters}
        # The first of its base tells whose the registered model is; the second is the champion.
        assert kept == {runs[0], runs[1]}
        assert session.get(Model, model.id) is None


def test_a_store_that_can_not_be_asked_keeps_the_records(world, settings):
    (settings.data_dir / "mlflow.db").write_bytes(b"no database" * 1000)
    world.settings = settings.model_copy(update={"keep_deleted_days": 7.0})
    model, dataset = world.model(deleted=True), world.dataset(deleted=True)
    report = world.collect()
    assert [failure.partition(":")[0] for failure in report.failures] == ["mlflow", "mlflow.db"]
    with world.database.reading() as session:
        assert session.get(Model, model.id) is not None
        assert session.get(Dataset, dataset.id) is None


def test_a_store_that_can_not_be_opened_is_said(world, settings):
    (settings.data_dir / "mlflow.db").write_bytes(b"no database" * 1000)
    context = Context(settings, world.database, utcnow(), frozenset())
    with pytest.raises(CleanupFailed, match="not a database"):
        list(mlflow_runs.deleted(context, utcnow() - timedelta(days=7)))


def test_mlflows_copies_of_a_completed_jobs_adapter_become_links(world, settings):
    run_id, job, unfinished = uuid4().hex, world.job(), world.job("RUNNING")
    world.model(job=job, adapter=job.uid, parameters={"mlflow_run_id": run_id, "weights_step": 1})
    world.model(job=unfinished, adapter=unfinished.uid, parameters={"mlflow_run_id": run_id})
    content = world.file(settings.adapters_dir / job.uid / "adapter_model.safetensors").read_bytes()
    world.file(settings.adapters_dir / unfinished.uid / "adapter_model.safetensors").write_bytes(content)
    root = settings.mlflow_artifacts_dir / "1"
    model = root / "models" / "m-1" / "artifacts"
    copies = [root / run_id / "artifacts" / "adapter", model / "artifacts" / job.uid, root / "another"]
    for folder in copies:
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(content)
    other = copies[0] / "nested" / "adapter_model.safetensors"
    other.parent.mkdir()
    other.write_bytes(content[::-1])
    (model / "MLmodel").write_text(f"flavors: {{}}\nrun_id: {run_id}\n")
    original = settings.adapters_dir / job.uid / "adapter_model.safetensors"
    report = world.collect()
    assert {one.what for one in report.removed if one.rule == "copies"} == {
        str(folder / "adapter_model.safetensors") for folder in copies[:2]
    }
    assert original.stat().st_nlink == 3
    assert all((folder / "adapter_model.safetensors").read_bytes() == content for folder in copies)
    assert other.read_bytes() == content[::-1]
    assert world.collect().removed == []
