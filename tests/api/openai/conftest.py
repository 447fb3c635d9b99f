"""The API in process over a real engine process, in float32."""

from urllib.parse import urlsplit

import pytest

from configs.settings import Settings
from registry.repositories.models import ModelRepository
from registry.tables import Model
from tests.api.engine_server.conftest import data_dir, engine_process
from tests.e2e.platform_process import free_ports

__all__ = ["data_dir", "engine_process"]


@pytest.fixture(scope="module")
def settings(engine_process, tiny_models_dir, data_dir):
    """Those of an API whose engine runs."""
    prefect_port, mlflow_port = free_ports(2)
    return Settings(
        data_dir=data_dir,
        local_models_dir=tiny_models_dir,
        allow_hub=False,
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
        engine_port=urlsplit(engine_process.url).port,
    )


@pytest.fixture(scope="module")
def tuned(database, tiny_model):
    """The name of a model with the adapter `adapters/1`."""
    with database.transaction() as session:
        model = Model(name="Tuned", base_model="tiny-llama", status="AVAILABLE", adapter="1")
        return f"ft:tiny-llama:tuned:{ModelRepository(session).add(model).id}"
