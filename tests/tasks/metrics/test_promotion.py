"""Who may be champion when people have deleted, renamed and made again what MLflow's registry had; a real server."""

import os
import subprocess
import sys
import time

import httpx
import pytest
from mlflow import MlflowClient

from configs.recipe import FinetuneParameters, PromotionSettings
from configs.settings import Settings
from registry.champions import CHAMPION, Champions
from registry.database import Database, upgrade
from registry.repositories.models import ModelRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import job_of_parameters
from registry.tables import Model
from tasks.metrics.promotion import NotBetter, PromotionImpossible, dismiss, promote
from tests.e2e.platform_process import free_ports

pytestmark = pytest.mark.filterwarnings("default")
ANY = PromotionSettings()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    (port,) = free_ports(1)
    folder = tmp_path_factory.mktemp("platform")
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder)]
    with (folder / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *store],
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, (folder / "mlflow.log").read_text()
            time.sleep(0.2)
        settings = Settings(data_dir=folder, mlflow_port=port)
        upgrade(settings.platform_database_url)
        yield settings
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def client(settings):
    return MlflowClient(settings.mlflow_url)


@pytest.fixture(scope="module")
def database(settings):
    database = Database(settings.platform_database_url)
    yield database
    database.close()


class Registrar:
    """Registers models as finished jobs do, but for what they were trained to."""

    def __init__(self, client: MlflowClient, database: Database) -> None:
        self.client, self.database = client, database

    def register(self, name: str, base: str | None = None) -> int:
        """Return the id of a new model that is a version of the registered model `name`."""
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name)
        run = self.client.create_run("0").info.run_id
        with self.database.transaction() as session:
            job_id = TrainingJobRepository(session).add(job_of_parameters(FinetuneParameters(model_id=1))).id
            tags = {"training_job_id": str(job_id)}
            version = self.client.create_model_version(name, f"runs:/{run}/model", run, tags)
            parameters = {
                "registered_model": name,
                "registered_model_version": str(version.version),
                "mlflow_run_id": run,
                "recipe": {},
            }
            model = Model(
                name=f"{name} {version.version}",
                base_model=base or name,
                status="AVAILABLE",
                parameters=parameters,
                training_job_id=job_id,
            )
            return ModelRepository(session).add(model).id

    def champion(self, name: str) -> str:
        return str(self.client.get_model_version_by_alias(name, CHAMPION).version)


@pytest.fixture(scope="module")
def registrar(client, database):
    return Registrar(client, database)


def test_a_model_whose_version_was_deleted_takes_no_other_models_version(settings, database, registrar):
    old = registrar.register("deleted")
    registrar.client.delete_registered_model("deleted")
    new = registrar.register("deleted")  # version 1 again
    with pytest.raises(PromotionImpossible, match="deleted in MLflow"):
        promote(settings, database, old, ANY)
    assert promote(settings, database, new, ANY).contest.version.version == "1"
    with pytest.raises(PromotionImpossible, match="deleted in MLflow"):
        promote(settings, database, old, PromotionSettings(force=True))
    assert (
        Champions(settings.mlflow_url).of("deleted").run_id == registrar.client.get_model_version("deleted", "1").run_id
    )


def test_a_version_that_was_deleted_can_not_be_champion(settings, database, registrar):
    first = registrar.register("version-deleted")
    registrar.register("version-deleted")
    registrar.client.delete_model_version("version-deleted", "1")
    with pytest.raises(PromotionImpossible, match="Version 1"):
        promote(settings, database, first, ANY)


def test_a_registered_model_that_was_renamed_is_found(settings, database, registrar):
    model = registrar.register("before")
    registrar.client.rename_registered_model("before", "after")
    assert promote(settings, database, model, ANY).contest.version.name == "after"
    assert registrar.champion("after") == "1"


def test_a_deleted_champion_does_not_block_the_next_one(settings, database, registrar):
    first, second = registrar.register("contested"), registrar.register("contested")
    promote(settings, database, first, ANY)
    with pytest.raises(NotBetter):
        promote(settings, database, second, ANY)
    with database.transaction() as session:
        models = ModelRepository(session)
        champion = models.get(first)
        models.remove(champion)
    # MLflow was away when it was deleted: the alias is still its.
    assert promote(settings, database, second, ANY).contest.champion.id == first
    assert registrar.champion("contested") == "2"


def test_deleting_the_champion_takes_the_alias_and_deleting_another_does_not(settings, database, registrar):
    first, second = registrar.register("dismissed"), registrar.register("dismissed")
    promote(settings, database, first, ANY)
    with database.reading() as session:
        models = ModelRepository(session)
        champion, other = models.get(first), models.get(second)
    assert dismiss(settings, other) is None
    assert registrar.champion("dismissed") == "1"
    assert dismiss(settings, champion) == "dismissed"
    assert Champions(settings.mlflow_url).of("dismissed") is None
    assert dismiss(settings, champion) is None
    promote(settings, database, second, ANY)
    assert registrar.champion("dismissed") == "2"


def test_of_two_bases_that_an_older_version_let_share_a_name_the_first_one_keeps_it(settings, database, registrar):
    mine, others = registrar.register("shared", "tiny/shared"), registrar.register("shared", "other/shared")
    promote(settings, database, mine, ANY)
    with pytest.raises(PromotionImpossible, match="two bases share"):
        promote(settings, database, others, PromotionSettings(force=True))
    assert registrar.champion("shared") == "1"
