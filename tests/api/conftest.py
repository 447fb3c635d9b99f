"""The API in process, over a real database and the tiny models; Prefect, MLflow and the engine are not running."""

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from configs.settings import Settings
from tests.e2e.platform_process import free_ports


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
    with TestClient(create_app(settings), base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def tiny_model(client):
    response = client.post("/api/models", json={"name": "Tiny", "base_model": "tiny-llama"})
    assert response.status_code == 201
    return response.json()
