"""The API on a port of its own, for a command line that talks HTTP; the other parts are not running."""

import json
import threading

import httpx
import pytest
import uvicorn

from api.app import create_app
from api.cli.program import run
from tests.api.controller.running import running_controller
from tests.e2e.platform_process import free_ports


@pytest.fixture(scope="module")
def url(settings):
    (port,) = free_ports(1)
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            started.set()

    # Not uvloop: beside the main thread it hears of no child's end, and a data set's preview is a child.
    config = uvicorn.Config(create_app(settings), port=port, log_level="warning", ws="none", loop="asyncio")
    server = Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert started.wait(30)
    with running_controller(settings):
        yield f"http://localhost:{port}"
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def client(url):
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.fixture
def command(url, capsys, monkeypatch):
    """Run a command of the command line in process; returns its exit code, what it printed, and its errors."""
    monkeypatch.setenv("LLM_PLATFORM_URL", url)

    def run_it(*arguments):
        code = run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_it


@pytest.fixture
def answer(command):
    """Run a command with --json that must succeed; returns what it answers."""

    def run_it(*arguments):
        code, printed, error = command(*arguments, "--json")
        assert code == 0, error
        (line,) = printed.splitlines()
        return json.loads(line)

    return run_it
