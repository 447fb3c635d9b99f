"""The API in process, over a real database and the tiny models; Prefect, MLflow and the engine are not running."""

import openai
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from configs.recipe import FinetuneParameters
from configs.settings import Settings
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import job_of_parameters
from tests.api.controller.running import running_controller
from tests.e2e.platform_process import free_ports
from tests.openai_types import check_types


@pytest.fixture(scope="module")
def settings(tmp_path_factory, tiny_models_dir):
    prefect_port, mlflow_port, engine_port = free_ports(3)
    return Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        local_models_dir=tiny_models_dir,
        allow_hub=False,
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
        engine_port=engine_port,
        max_request_bytes=100_000,
        max_upload_bytes=2_000_000,
    )


@pytest.fixture(scope="module")
def client(settings):
    app = TestClient(create_app(settings), base_url="http://localhost", raise_server_exceptions=False)
    with app as client, running_controller(settings):
        yield client


@pytest.fixture(scope="module")
def tiny_model(client):
    response = client.post("/api/models", json={"name": "Tiny", "base_model": "tiny-llama"})
    assert response.status_code == 201
    return response.json()


@pytest.fixture(scope="module")
def database(settings, client):
    database = Database(settings.platform_database_url)
    yield database
    database.close()


@pytest.fixture(scope="module")
def sdk(client):
    """The official `openai` package over the API in process; every answer is held to its types."""
    client.event_hooks = {"response": [check_types]}
    # Not closed: it would close the API's own client.
    return openai.OpenAI(base_url="http://localhost/v1", api_key="none", max_retries=0, http_client=client)


@pytest.fixture(scope="module")
def job(database, tiny_model):
    """Store a job that stands as it is told, as flows and the reconciler would; return its id, or those of copies."""

    def store(status="COMPLETED", labels=None, trained_tokens=None, copies=None, **fields):
        columns = {name: fields.pop(name) for name in ("step", "total_steps", "seconds_per_step") if name in fields}
        with database.transaction() as session:
            jobs, ids = TrainingJobRepository(session), []
            for _ in range(copies or 1):
                one = job_of_parameters(FinetuneParameters(model_id=tiny_model["id"], job_name="a job", **fields))
                one.labels, one.trained_tokens = labels, trained_tokens
                for name, value in columns.items():
                    setattr(one, name, value)
                ids.append(jobs.add(one).id)
                jobs.record_state(one, status, utcnow(), error="it broke" if status == "FAILED" else None)
            return ids if copies else ids[0]

    return store
