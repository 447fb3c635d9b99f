"""Fixtures shared by every test: tiny real models in a local models folder."""

from pathlib import Path

import pytest
import torch

from tests.tiny_models import save_tiny_gpt2, save_tiny_llama


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots", type=Path, metavar="DIR", help="save pictures of the pages that tests click through"
    )


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Divide the tests between two processes: those of the running platform in one, by file in the other.

    The former take longest, so they begin first; they share one platform, so they stay together.
    """
    ends = Path(__file__).parent / "e2e"
    for item in items:
        item.add_marker(pytest.mark.xdist_group("e2e" if item.path.is_relative_to(ends) else item.path.stem))
    items.sort(key=lambda item: not item.path.is_relative_to(ends))


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
def tiny_gpt2_dir(tiny_models_dir) -> Path:
    return tiny_models_dir / "tiny-gpt2"
