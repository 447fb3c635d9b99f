"""The registry's tests run on both databases: SQLite, and a real PostgreSQL."""

import shutil

import pytest

from registry.database import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'platform.db'}"
    return request.getfixturevalue("new_postgresql_database")()


@pytest.fixture
def postgresql_url(new_postgresql_database):
    return new_postgresql_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    if request.param == "sqlite":
        file = shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path)
        database = Database(f"sqlite:///{file}")
    else:
        database = Database(request.getfixturevalue("new_migrated_postgresql")())
    yield database
    database.close()
