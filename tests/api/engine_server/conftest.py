"""A real engine process over the tiny models."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.tasks.inference.adapters import save_adapter

ROOT = Path(__file__).parents[3]


class EngineProcess:
    """`python -m api.engine_server.server` on a free port."""

    def __init__(self, models_dir: Path, data_dir: Path, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = environment.pop("LLM_PLATFORM_ENGINE_PORT", None) or probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        names = {
            "LLM_PLATFORM_ENGINE_PORT": str(port),
            "LLM_PLATFORM_LOCAL_MODELS_DIR": str(models_dir),
            "LLM_PLATFORM_DATA_DIR": str(data_dir),
            "LLM_PLATFORM_DEVICE": "cpu",
            "LLM_PLATFORM_COMPUTE_DTYPE": "float32",
            "OMP_NUM_THREADS": "1",  # faster for a tiny model, and kinder to the tests beside
            **environment,
        }
        self.started = time.monotonic()
        self.log_file = data_dir / f"engine-{port}.log"
        command = [sys.executable, "-m", "api.engine_server.server"]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | names, stderr=log)
        self.first_health = self._first_health()

    def _first_health(self):
        while time.monotonic() < self.started + 60:
            try:
                return httpx.get(f"{self.url}/health", trust_env=False).json()
            except httpx.TransportError:
                assert self.process.poll() is None, self.log_file.read_text()
                time.sleep(0.05)
        raise AssertionError("the port did not open")

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM; return the exit status and the seconds it took."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(20)
        return status, time.monotonic() - begun


@pytest.fixture(scope="session")
def data_dir(tiny_llama_dir, tmp_path_factory):
    """A data folder with the adapter `adapters/1` of the tiny Llama."""
    folder = tmp_path_factory.mktemp("data")
    save_adapter(tiny_llama_dir, folder / "adapters" / "1", seed=1)
    return folder


@pytest.fixture(scope="session")
def engine_process(tiny_models_dir, data_dir):
    engine = EngineProcess(tiny_models_dir, data_dir)
    yield engine
    status, _ = engine.stop()
    assert status == 0


@pytest.fixture
def http(engine_process):
    with httpx.Client(base_url=engine_process.url, timeout=60, trust_env=False) as client:
        yield client
