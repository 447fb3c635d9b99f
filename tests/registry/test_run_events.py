"""Prefect's event stream against a real server: who listens hears of changes, and again after an outage."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.run_events import RunEvents
from tests.flows.test_worker import Prefect

SECONDS = 60.0
"""Longest wait for what takes milliseconds on a quiet machine."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Prefect]:
    prefect = Prefect(tmp_path)
    yield prefect
    prefect.client.close()


def started(server: Prefect) -> subprocess.Popen[bytes]:
    process = server.spawn("flows.prefect_server")
    deadline = time.monotonic() + 2 * SECONDS
    while time.monotonic() < deadline:
        try:
            if server.client.get("/health").status_code == 200:
                return process
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def stopped(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(timeout=SECONDS)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(2 * SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


def test_every_change_of_a_runs_state_is_heard_also_after_the_server_was_away(server: Prefect):
    asyncio.run(follow(server))


async def follow(server: Prefect) -> None:
    heard: list[str | None] = []
    process = await asyncio.to_thread(started, server)
    try:
        events = RunEvents(str(server.client.base_url).removesuffix("/"), heard.append)
        listening = asyncio.create_task(events.run())
        await until(lambda: events.listening)
        assert heard == [None]

        flow = server.client.post("/flows/", json={"name": "any"}).json()["id"]
        run = server.client.post("/flow_runs/", json={"flow_id": flow, "state": {"type": "SCHEDULED"}}).json()["id"]
        await until(lambda: "SCHEDULED" in heard)
        state = {"state": {"type": "CANCELLED"}, "force": True}
        server.client.post(f"/flow_runs/{run}/set_state", json=state)
        await until(lambda: heard[-1] == "CANCELLED")

        await asyncio.to_thread(stopped, process)
        await until(lambda: not events.listening)
        heard.clear()
        process = await asyncio.to_thread(started, server)
        await until(lambda: events.listening)
        assert heard == [None]  # what happened meanwhile is unknown
        server.client.post("/flow_runs/", json={"flow_id": flow, "state": {"type": "SCHEDULED"}})
        await until(lambda: "SCHEDULED" in heard)
        listening.cancel()
    finally:
        await asyncio.to_thread(stopped, process)


def test_without_a_server_it_goes_on_trying_and_says_that_it_does_not_listen(caplog: pytest.LogCaptureFixture):
    asyncio.run(fail_to_listen(caplog))


async def fail_to_listen(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        events = RunEvents(f"http://127.0.0.1:{taken.getsockname()[1]}/api", lambda _: None)
        with caplog.at_level("INFO"):
            listening = asyncio.create_task(events.run())
            await until(lambda: "can't be listened to" in caplog.text)
        assert not events.listening
        assert not listening.done()
        listening.cancel()
