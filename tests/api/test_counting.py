"""Answers are counted exactly, by several processes, whether or not the database can be written at that moment."""

import asyncio
import threading

import pytest
from sqlalchemy.exc import OperationalError

from api.counting import SharedCounters
from registry.database import Database, upgrade
from registry.repositories.statistics import GENERATIONS, REFUSED, StatisticsRepository


@pytest.fixture
def url(tmp_path):
    found = f"sqlite:///{tmp_path / 'platform.db'}"
    upgrade(found)
    return found


@pytest.fixture
def database(url):
    database = Database(url)
    yield database
    database.close()


def stored(database):
    with database.reading() as session:
        return StatisticsRepository(session).counts().total_generations


def shown(counters, database):
    found, pending = counters.with_pending(lambda: stored(database))
    return found, pending[GENERATIONS]


class Locked:
    """Another process that holds the database's write lock."""

    def __init__(self, url):
        self._database = Database(url)

    def __enter__(self):
        self._connection = self._database.engine.execution_options(writes=True).connect()
        self._connection.begin()
        return self

    def __exit__(self, *_):
        self._connection.rollback()
        self._connection.close()
        self._database.close()


def impatient(url, monkeypatch):
    monkeypatch.setattr("registry.database.SQLITE_BUSY_TIMEOUT_SECONDS", 0.2)
    return Database(url)


def test_what_is_counted_is_shown_at_once_and_stored_soon(database):
    async def work():
        counter = SharedCounters(database)
        flushing = asyncio.create_task(counter.run())
        counter.add(GENERATIONS, 3)
        assert shown(counter, database) == (0, 3)
        async with asyncio.timeout(20):
            while stored(database) != 3:
                await asyncio.sleep(0.02)
        counter.add(GENERATIONS, 2)
        flushing.cancel()
        await counter.close()
        assert shown(counter, database) == (5, 0)

    asyncio.run(work())


def test_a_locked_database_fails_nobody_and_loses_nothing(url, database, monkeypatch):
    async def work():
        own = impatient(url, monkeypatch)
        counter = SharedCounters(own)
        flushing = asyncio.create_task(counter.run())
        with Locked(url):
            counter.add(GENERATIONS, 4)
            await asyncio.sleep(1.5)
            assert shown(counter, database) == (0, 4)
            assert not flushing.done()
        async with asyncio.timeout(20):
            while stored(database) != 4:
                await asyncio.sleep(0.05)
        assert shown(counter, database) == (4, 0)
        flushing.cancel()
        own.close()

    asyncio.run(work())


def test_a_flush_that_fails_keeps_its_count(url, monkeypatch):
    own = impatient(url, monkeypatch)
    counter = SharedCounters(own)
    counter.add(GENERATIONS, 7)
    with Locked(url), pytest.raises(OperationalError):
        counter.flush()
    assert counter.with_pending(lambda: 0) == (0, {GENERATIONS: 7})
    counter.flush()
    assert stored(own) == 7
    own.close()


def test_several_processes_add_up_and_no_answer_is_seen_twice(url):
    """Each with its own pool, as API processes have; a reader meanwhile never sees more than was counted."""
    databases = [Database(url) for _ in range(3)]
    counters = [SharedCounters(database) for database in databases]
    seen, done = [], threading.Event()

    def read():
        while not done.is_set():
            seen.append(sum(shown(counters[0], databases[0])))

    def count(counter):
        for _ in range(40):
            counter.add(GENERATIONS, 1)
            counter.flush()

    reader = threading.Thread(target=read)
    reader.start()
    threads = [threading.Thread(target=count, args=(counter,)) for counter in counters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()
    assert stored(databases[0]) == 120
    assert seen == sorted(seen)
    assert max(seen, default=0) <= 120
    for database in databases:
        database.close()


def test_counters_of_several_names_are_written_together(database):
    counters = SharedCounters(database)
    counters.add(GENERATIONS, 2)
    counters.add(REFUSED["scope"])
    counters.add(REFUSED["scope"])
    counters.flush()
    with database.reading() as session:
        assert +StatisticsRepository(session).counted() == {GENERATIONS: 2, REFUSED["scope"]: 2}
    assert counters.with_pending(lambda: None)[1] == {}
