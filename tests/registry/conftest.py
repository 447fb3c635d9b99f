"""The registry's tests run on both databases: SQLite, and a real PostgreSQL."""

import pytest

from registry.database import Database, upgrade


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
