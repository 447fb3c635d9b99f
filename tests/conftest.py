"""Fixtures shared by every test: tiny real models in a local models folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.tiny_models import save_tiny_gpt2, save_tiny_llama

PLATFORM_TESTS = "tests/e2e/"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots", type=Path, metavar="DIR", help="save pictures of the pages and terminals that tests use"
    )


class PlatformBesideTheRest(LoadScopeScheduling):  # type: ignore[misc]
    """Divides the tests between processes: those of the running platform in one, all others by file."""

    def _split_scope(self, nodeid: str) -> str:
        # They share one platform, so they stay together.
        return PLATFORM_TESTS if nodeid.startswith(PLATFORM_TESTS) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return PlatformBesideTheRest(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests of the running platform: they take longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(PLATFORM_TESTS))


@pytest.fixture(scope="session")
def screenshots(request: pytest.FixtureRequest) -> Path | None:
    """The folder for pictures of pages; none: no pictures are taken."""
    folder: Path | None = request.config.getoption("--screenshots")
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """On models this small a second thread only waits, the longer the busier the machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_models_dir(tmp_path_factory) -> Path:
    """A local models folder that holds `tiny-llama` and `tiny-gpt2`."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_llama(folder / "tiny-llama")
    save_tiny_gpt2(folder / "tiny-gpt2")
    return folder


@pytest.fixture(scope="session")
def tiny_llama_dir(tiny_models_dir) -> Path:
    return tiny_models_dir / "tiny-llama"


@pytest.fixture(scope="session")
def endless_llama_dir(tiny_llama_dir, tiny_models_dir):
    """The tiny Llama with a context so long that a generation outlasts any test."""
    folder = shutil.copytree(tiny_llama_dir, tiny_models_dir / "endless-llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1_000_000}))
    return folder


@pytest.fixture(scope="session")
def tiny_gpt2_dir(tiny_models_dir) -> Path:
    return tiny_models_dir / "tiny-gpt2"
