"""The processes that answer clients, without Prefect and MLflow: the engine, the API and the controller."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.e2e.platform_process import free_ports

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("api.engine_server.server", "api.server", "api.controller")
SERVICES = ("api", "engine", "prefect", "mlflow")
START_SECONDS = 180
STOP_SECONDS = 60


class Served:
    """The three processes over the models of a folder, on ports and with data of their own."""

    def __init__(self, models_dir: Path, data_dir: Path, **settings: str) -> None:
        ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
        self.port = ports["api"]
        self.url = f"http://127.0.0.1:{self.port}"
        self._logs = data_dir
        environment = {
            **os.environ,
            "LLM_PLATFORM_DATA_DIR": str(data_dir),
            "LLM_PLATFORM_LOCAL_MODELS_DIR": str(models_dir),
            "LLM_PLATFORM_ALLOW_HUB": "false",
            **{f"LLM_PLATFORM_{name.upper()}_PORT": str(port) for name, port in ports.items()},
            **{f"LLM_PLATFORM_{name.upper()}": value for name, value in settings.items()},
        }
        self._processes = [self._start(module, environment) for module in MODULES]
        try:
            self._wait([f"{self.url}/v1/models", f"http://127.0.0.1:{ports['engine']}/health"])
        except BaseException:
            self.stop()
            raise

    @property
    def engine_pid(self) -> int:
        """The engine's process."""
        return self._processes[0].pid

    def stop(self) -> None:
        """End all three, and wait for them."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def _start(self, module: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self._logs / f"{module}.log").open("wb") as log:
            command = [sys.executable, "-m", module]
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def _wait(self, urls: list[str]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while urls:
            assert time.monotonic() < deadline, f"no answer from {urls}; {self._logs} has the logs"
            for process, module in zip(self._processes, MODULES, strict=True):
                assert process.poll() is None, (self._logs / f"{module}.log").read_text()[-4000:]
            try:
                if httpx.get(urls[0], timeout=10, trust_env=False).is_success:
                    urls = urls[1:]
            except httpx.TransportError:
                time.sleep(0.2)
