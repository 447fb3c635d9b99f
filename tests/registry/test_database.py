from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from registry.database import upgrade
from registry.repositories.datasets import DatasetRepository
from registry.repositories.models import ModelRepository
from registry.repositories.statistics import GENERATIONS, StatisticsRepository
from registry.tables import Base, Model


def test_migrations_make_exactly_the_tables(database):
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_first_start_holds_the_catalogue_and_a_second_changes_nothing(database):
    upgrade(database.url)
    with database.reading() as session:
        models = ModelRepository(session).list()
        assert [(model.id, model.base_model) for model in models] == [
            (1, "HuggingFaceTB/SmolLM2-135M-Instruct"),
            (2, "gpt2"),
            (3, "distilgpt2"),
        ]
        assert DatasetRepository(session).get(1) is not None


def test_a_deleted_catalogue_model_stays_deleted_and_its_id_is_not_reused(database):
    with database.transaction() as session:
        session.delete(ModelRepository(session).get(3))
    upgrade(database.url)
    with database.transaction() as session:
        added = ModelRepository(session).add(Model(name="mine", base_model="mine", status="LOADING"))
        assert added.id == 4
        session.delete(added)
    with database.transaction() as session:
        assert ModelRepository(session).add(Model(name="next", base_model="next", status="LOADING")).id == 5


def test_a_block_that_raises_changes_nothing(database):
    def add_and_break() -> None:
        with database.transaction() as session:
            ModelRepository(session).add(Model(name="mine", base_model="mine", status="LOADING"))
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        add_and_break()
    with database.reading() as session:
        assert len(ModelRepository(session).list()) == 3


def test_concurrent_writers_all_count(database):
    def count_once(_: int) -> None:
        with database.transaction() as session:
            # Read first, then write: on SQLite a deferred transaction fails here as soon as another has written.
            StatisticsRepository(session).counts()
            StatisticsRepository(session).count({GENERATIONS: 1})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count_once, range(40)))
    with database.reading() as session:
        assert StatisticsRepository(session).counts().total_generations == 40
