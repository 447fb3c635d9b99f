"""A streamed answer passes through nginx as Debian packages it, with its default timeouts: 60 s between two reads."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from functools import partial
from itertools import pairwise

import httpx
import pytest

from tests.clients.conftest import STARTER
from tests.clients.served import Served
from tests.e2e.platform_process import free_ports

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1800)]

WAIT_SECONDS = 120
TOKEN_SECONDS = 2.0
PROMPT_TOKENS = 8000
AHEAD_TOKENS = 1500
TOKENS = 200
STEP_SECONDS = 0.05
"""How long the engine runs between two stops: a few steps of the starter model at most."""
LONG_GAPS = 5
CONFIGURATION = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{upstream}; }} }}
}}
"""


class Nginx:
    """A foreground nginx before a port, with nothing set that concerns time or buffers."""

    def __init__(self, upstream: int, folder) -> None:
        program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
        assert program, "nginx is missing: apt-get install nginx"
        port = free_ports(1)[0]
        file = folder / "nginx.conf"
        file.write_text(CONFIGURATION.format(folder=folder, port=port, upstream=upstream))
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen([program, "-p", str(folder), "-c", str(file)])
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=10, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


def streamed(url: str, prompt: str | list[int], tokens: int, **options) -> tuple[list[str], list[float]]:
    """Return the texts of a streamed completion and when each line of it came."""
    body = {"model": STARTER, "prompt": prompt, "max_tokens": tokens, "stream": True, "temperature": 0, **options}
    lines, moments = [], []
    with (
        httpx.Client(timeout=httpx.Timeout(600), trust_env=False) as http,
        http.stream("POST", f"{url}/v1/completions", json=body) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            lines.append(line)
            moments.append(time.monotonic())
    assert "data: [DONE]" in lines, lines[-3:]
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert not [event for event in events if "error" in event], events[-1]
    return [choice["text"] for event in events for choice in event["choices"]], moments


@pytest.fixture(scope="module")
def slow_engine(starter_models, tmp_path_factory):
    """One place in the engine, so that a second answer waits for the first."""
    server = Served(starter_models, tmp_path_factory.mktemp("slow"), engine_concurrency="1")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def nginx(slow_engine, tmp_path_factory):
    proxy = Nginx(slow_engine.port, tmp_path_factory.mktemp("nginx"))
    yield proxy
    proxy.stop()


def test_an_answer_that_waited_two_minutes_in_the_queue(slow_engine, nginx):
    """Answers ahead of it are made one after another until it has waited long enough."""
    begun = time.monotonic()
    streamed(slow_engine.url, "Once", AHEAD_TOKENS, ignore_eos=True)
    seconds_each = time.monotonic() - begun
    count = int(1.5 * WAIT_SECONDS / seconds_each) + 2
    one = partial(streamed, slow_engine.url, "Once", AHEAD_TOKENS, ignore_eos=True)
    ahead = [threading.Thread(target=one) for _ in range(count)]
    for thread in ahead:
        thread.start()
    time.sleep(5)  # they are in the queue by then
    begun = time.monotonic()
    texts, moments = streamed(nginx.url, "Hello", 4)
    waited = moments[-1] - begun
    for thread in ahead:
        thread.join()
    assert texts
    print(f"waited {waited:.0f} s behind {count} answers; {moments[0] - begun:.1f} s to the first line")
    assert waited > WAIT_SECONDS


def test_a_prompt_of_eight_thousand_tokens(nginx):
    texts, _ = streamed(nginx.url, [1000 + index % 5000 for index in range(PROMPT_TOKENS)], 8)
    assert texts


def test_two_seconds_between_tokens(slow_engine, nginx):
    """The engine's process is stopped again and again, so that its tokens come as those of a slow machine."""
    engine, done = slow_engine.engine_pid, threading.Event()

    def hold() -> None:
        while not done.is_set():
            os.kill(engine, signal.SIGSTOP)
            done.wait(TOKEN_SECONDS)
            os.kill(engine, signal.SIGCONT)
            time.sleep(STEP_SECONDS)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        texts, moments = streamed(nginx.url, "Once upon a time", TOKENS, ignore_eos=True)
    finally:
        done.set()
        holder.join()
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    print(f"{len(texts)} pieces in {moments[-1] - moments[0]:.0f} s; the longest gap was {max(gaps):.1f} s")
    # Pieces come as they are made, and not together at the end.
    assert sum(gap > 0.8 * TOKEN_SECONDS for gap in gaps) >= LONG_GAPS
