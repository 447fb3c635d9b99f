"""Whatever a pass raises, the loop goes on, and says what it was."""

import asyncio
import logging

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from api.controller.supervise import Loop, supervise
from api.errors import ServiceDown

ERRORS = {
    "a bug": ValueError("that is no number"),
    "a lookup": KeyError("gone"),
    "a record that is gone": LookupError("There is no row 7 in evaluations."),
    "a service": ServiceDown("prefect", "The Prefect server does not answer."),
    "http": httpx.ConnectError("refused"),
    "a locked database": OperationalError("INSERT", {}, Exception("database is locked")),
    "a full disk": OSError(28, "No space left on device"),
    "a pass's own timeout": TimeoutError("the hub took too long"),
    "a group": ExceptionGroup("2 records: x", [ValueError("x"), KeyError("y")]),
    "a stop of a generator": StopAsyncIteration(),
    "no memory": MemoryError(),
    "too deep": RecursionError("maximum recursion depth exceeded"),
}


async def passed(loop, passes, *, seconds=20.0, leads=lambda: True):
    """Supervise a loop until it has passed so often; return how often a failure was reported."""
    failures = []
    task = asyncio.create_task(supervise(loop, leads, lambda: failures.append(loop.last_error)))
    async with asyncio.timeout(seconds):
        while loop.passes < passes and not task.done():
            await asyncio.sleep(0.005)
    assert not task.done()
    task.cancel()
    return failures


@pytest.mark.parametrize("kind", ERRORS)
def test_a_loop_goes_on_after_every_kind_of_error(kind, caplog):
    calls = 0

    async def run_pass():
        nonlocal calls
        calls += 1
        if calls in (2, 3):
            raise ERRORS[kind]

    loop = Loop("test", run_pass, 0.01)
    with caplog.at_level(logging.INFO):
        failures = asyncio.run(passed(loop, 3))
    assert len(failures) == 2
    assert failures[0]
    state = loop.state()
    assert (state.passes, state.failures, state.last_error) == (loop.passes, 0, failures[0])
    assert state.last_ok_at > state.last_error_at
    said = [record for record in caplog.records if "loop 'test'" in record.getMessage()]
    assert [record.levelname for record in said][-1] == "INFO"  # that it works again
    assert len(said) == 2  # the same error in a row is said once
    is_outage = kind in ("a service", "http", "a locked database")
    assert (said[0].exc_info is None) is is_outage


def test_a_pass_that_hangs_is_cut_and_counts_as_failed():
    hangs = [True]

    async def run_pass():
        if hangs:
            hangs.clear()
            await asyncio.Event().wait()

    loop = Loop("test", run_pass, 0.01, pass_seconds=0.1)
    assert asyncio.run(passed(loop, 1)) == ["a pass took longer than 0.1 s"]


def test_failures_in_a_row_make_the_pauses_longer_up_to_a_limit():
    loop = Loop("test", lambda: asyncio.sleep(0), 1.0)
    pauses = []
    for _ in range(8):
        pauses.append(loop.pause)
        loop.failed(ValueError("x"))
    assert pauses == [1, 2, 4, 8, 10, 10, 10, 10]
    loop.succeeded()
    assert loop.pause == 1.0
    slow = Loop("slow", lambda: asyncio.sleep(0), 3600.0)
    slow.failed(ValueError("x"))
    assert slow.pause == 3600.0


def test_a_wake_begins_the_next_pass_at_once():
    async def run():
        loop = Loop("test", lambda: asyncio.sleep(0), 3600.0)
        task = asyncio.create_task(supervise(loop, lambda: True, lambda: None))
        async with asyncio.timeout(20):
            while loop.passes < 4:
                loop.wake.set()
                await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())


def test_a_failed_pass_is_tried_again_when_a_service_is_back_and_not_for_every_change():
    async def run():
        fails = [True]

        async def run_pass():
            if fails:
                raise ValueError("x")

        loop = Loop("test", run_pass, 3600.0)
        task = asyncio.create_task(supervise(loop, lambda: True, lambda: None))
        async with asyncio.timeout(20):
            while not loop.failures:
                await asyncio.sleep(0)
            for _ in range(100):
                loop.wake.set()
                await asyncio.sleep(0)
            assert loop.failures == 1
            fails.clear()
            loop.retry.set()
            while not loop.passes:
                await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())


def test_no_pass_runs_while_another_process_leads():
    calls = []

    async def run_pass():
        calls.append(1)

    async def run():
        leads = [False]
        loop = Loop("test", run_pass, 0.005)
        task = asyncio.create_task(supervise(loop, lambda: leads[0], lambda: None))
        await asyncio.sleep(0.1)
        assert calls == []
        leads[0] = True
        async with asyncio.timeout(20):
            while not calls:
                await asyncio.sleep(0.005)
        task.cancel()

    asyncio.run(run())
