"""One running platform for the end-to-end tests, with the packaged SmolLM2 and the tiny models in its folder."""

from pathlib import Path

import openai
import pytest

from tests.e2e.platform_process import ROOT, PlatformProcess
from tests.e2e.tiny_job import submit
from tests.openai_types import check_types
from tests.tiny_models import save_tiny_llama


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here: it drives the real platform."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory, tiny_models_dir):
    """A models folder with the starter model that `make` has converted, and the tiny ones."""
    folder = tmp_path_factory.mktemp("all-models")
    (folder / "HuggingFaceTB").symlink_to(ROOT / "data" / "models" / "HuggingFaceTB")
    for model in tiny_models_dir.iterdir():
        (folder / model.name).symlink_to(model)
    save_tiny_llama(folder / "tiny-long-llama", context=1024)
    return folder


@pytest.fixture(scope="session")
def platform(tmp_path_factory, models_dir):
    process = PlatformProcess(tmp_path_factory.mktemp("platform"), models_dir)
    process.start()
    yield process
    process.close()


@pytest.fixture(scope="session")
def tiny_model(platform):
    return platform.http.post("/models", json={"name": "Tiny", "base_model": "tiny-llama"}).json()["id"]


@pytest.fixture(scope="session")
def undisturbed(platform, tiny_model):
    """The tiny job as it ends when nobody touches it."""
    return platform.wait_for_job(submit(platform, tiny_model), "COMPLETED")


@pytest.fixture(scope="module")
def client(platform):
    """The official `openai` package over the platform; every answer is held to its types."""
    base_url = f"http://127.0.0.1:{platform.ports['api']}/v1"
    checking = openai.DefaultHttpxClient(event_hooks={"response": [check_types]})
    with openai.OpenAI(base_url=base_url, api_key="none", http_client=checking, timeout=120) as client:
        yield client
