"""The platform that the clients are driven against, over the starter model."""

from pathlib import Path

import pytest

from tests.clients.served import Served

ROOT = Path(__file__).resolve().parents[2]
STARTER = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="session")
def starter_models() -> Path:
    """The folder of the starter model, as `make model` fills it."""
    folder = ROOT / "data" / "models"
    assert (folder / STARTER / "model.safetensors").exists(), "run `make model` first"
    return folder


@pytest.fixture(scope="session")
def served(starter_models, tmp_path_factory):
    server = Served(starter_models, tmp_path_factory.mktemp("served"))
    yield server
    server.stop()
