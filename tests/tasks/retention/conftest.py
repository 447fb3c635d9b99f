"""A data folder as the platform fills it, over a real database; time is what a test says it is."""

import os
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from configs.recipe import EvaluationParameters, FinetuneParameters
from configs.settings import Settings
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import evaluation_of_parameters, job_of_parameters
from registry.tables import Dataset, Model
from tasks.retention import caches
from tasks.retention.collect import collect
from tests.e2e.platform_process import free_ports


class World:
    """Records and files of every kind, and a pass of retention over them at a later time."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = database

    def folder(self, path: Path) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        (path / "content").write_bytes(os.urandom(5000))
        return path

    def file(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(5000))
        return path

    def job(self, status="COMPLETED", **recipe):
        with self.database.transaction() as session:
            jobs = TrainingJobRepository(session)
            job = jobs.add(job_of_parameters(FinetuneParameters(model_id=1, job_name="a job", **recipe)))
            jobs.record_state(job, status, utcnow())
            return job

    def evaluation(self, status="COMPLETED", **parameters):
        with self.database.transaction() as session:
            evaluations = EvaluationRepository(session)
            wanted = EvaluationParameters(**{"model_id": 1, **parameters})
            evaluation = evaluations.add(evaluation_of_parameters(wanted))
            evaluations.record_state(evaluation, status, utcnow())
            return evaluation

    def model(self, deleted=False, job=None, **fields):
        with self.database.transaction() as session:
            model = Model(name="a model", base_model="tiny", status="AVAILABLE", **fields)
            model.training_job_id = job.id if job is not None else None
            model.deleted_at = utcnow() if deleted else None
            session.add(model)
            session.flush()
            if job is not None:
                TrainingJobRepository(session).require(job.id).output_model_id = model.id
            return model

    def dataset(self, deleted=False, status="READY", content=None):
        with self.database.transaction() as session:
            dataset = Dataset(uid=uuid4().hex, name="rows", source="upload", status=status, settings={})
            dataset.content_hash = content
            dataset.deleted_at = utcnow() if deleted else None
            session.add(dataset)
            session.flush()
            return dataset

    def collect(self, days=40.0, **options):
        return collect(self.settings, self.database, now=lambda: utcnow() + timedelta(days=days), **options)


@pytest.fixture
def settings(tmp_path):
    prefect_port, mlflow_port, engine_port = free_ports(3)
    # Neither Prefect nor MLflow is there: their rules have tests of their own.
    return Settings(
        data_dir=tmp_path,
        keep_flow_runs_days=None,
        keep_deleted_days=None,
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
        engine_port=engine_port,
    )


@pytest.fixture(autouse=True)
def _nothing_else_of_this_machine(tmp_path, monkeypatch):
    """Tests look far ahead in time: what other processes have there must not seem old to them."""
    (tmp_path / "machine").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "machine"))
    monkeypatch.setattr(caches, "KERNELS", tmp_path / "machine")


@pytest.fixture
def world(settings, migrated_sqlite):
    shutil.copy(migrated_sqlite, settings.data_dir)
    database = Database(settings.platform_database_url)
    yield World(settings, database)
    database.close()
