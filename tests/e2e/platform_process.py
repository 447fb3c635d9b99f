"""The whole platform as a person starts it, by the README's command, on ports and folders of its own."""

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 300
STOP_SECONDS = 40
PARTS = ("api", "mlflow", "engine", "prefect")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class PlatformProcess:
    """`make run`, with what it prints, and a client of its API."""

    def __init__(self, data_dir: Path, models_dir: Path) -> None:
        ports = free_ports(len(PARTS))
        self.ports = dict(zip(PARTS, ports, strict=True))
        self.data_dir = data_dir
        self.environment = {
            **os.environ,
            "LLM_PLATFORM_DATA_DIR": str(data_dir),
            "LLM_PLATFORM_LOCAL_MODELS_DIR": str(models_dir),
            "LLM_PLATFORM_ALLOW_HUB": "false",
            "LLM_PLATFORM_WEBHOOK_ALLOW_INTERNAL": "true",
            "LLM_PLATFORM_CHECKPOINT_INTERVAL_SECONDS": "2",
            # What one of them keeps to itself, the other one lacks: every test is one of that, too.
            "LLM_PLATFORM_API_WORKERS": "2",
            **{f"LLM_PLATFORM_{service.upper()}_PORT": str(port) for service, port in self.ports.items()},
        }
        self.base_url = f"http://localhost:{self.ports['api']}/api"
        self.http = httpx.Client(base_url=self.base_url, timeout=600)
        self.command = ["make", "run"]
        self.output: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def close(self) -> None:
        """Stop, and let go of the connections."""
        self.stop()
        self.http.close()

    @property
    def prefect_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['prefect']}/api"

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['mlflow']}"

    def start(self) -> float:
        """Run `make run` and wait until every service answers; return the seconds that took."""
        started = time.monotonic()
        self._process = subprocess.Popen(
            self.command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        self.wait_until(lambda: self.health() == "healthy", READY_SECONDS, "every service to answer")
        return time.monotonic() - started

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self.output.append(line)

    def health(self) -> str | None:
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"make run ended with {self._process.returncode}:\n{''.join(self.output)}")
        try:
            return self.http.get("/health", timeout=5).json()["status"]
        except httpx.TransportError:
            return None

    def processes(self) -> list[psutil.Process]:
        """Return every process of this platform, whoever its parent is by now."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("LLM_PLATFORM_DATA_DIR") == str(self.data_dir):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    def stop(self) -> None:
        """Press Ctrl-C, as a person would: the whole foreground process group hears it."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
        self._process.wait(STOP_SECONDS)
        self._reader.join(5)
        self.wait_until(lambda: not self.processes(), 5, "every process to be gone")
        self._process = None

    def cut_power(self) -> None:
        """Kill every process at once, `make` included; nothing gets to say goodbye."""
        assert self._process is not None
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(STOP_SECONDS)
        self.wait_until(lambda: not self.processes(), 5, "every process to be gone")
        self._process = None

    def control(self, action: str, service: str) -> str:
        """Stop or start one service through the supervisor, or ask for its `pid`; return what the supervisor says."""
        configuration = self.data_dir / "run" / "supervisord.conf"
        group = "used" if service in ("prefect", "mlflow") else "users"
        command = [str(ROOT / ".venv/bin/supervisorctl"), "-c", str(configuration), action, f"{group}:{service}"]
        return subprocess.run(command, check=True, capture_output=True, timeout=60, text=True).stdout

    def pid(self, service: str) -> int:
        """Return the process of one service."""
        return int(self.control("pid", service))

    def wait_until(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """Return the condition's first true value; fail with what the platform printed if none comes in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            time.sleep(0.1)
        raise AssertionError(f"waited {seconds} s for {what}\n{''.join(self.output[-40:])}")

    def job(self, job_id: int) -> dict[str, Any]:
        return self.http.get(f"/training/{job_id}").json()

    def wait_for_job(self, job_id: int, *statuses: str, seconds: float = 300) -> dict[str, Any]:
        """Return the job once it is in one of the statuses; fail at once if it ends in another."""

        def reached() -> dict[str, Any] | None:
            job = self.job(job_id)
            if job["status"] in statuses:
                return job
            assert job["status"] not in ("COMPLETED", "FAILED", "CANCELLED"), job
            return None

        return self.wait_until(reached, seconds, f"job {job_id} to be {statuses}, it is {self.job(job_id)}")

    def train(self, **body: Any) -> int:
        """Return the id of a new job; the evaluations that follow by default would slow other tests down."""
        response = self.http.post("/training", json={"job_name": "a job", "auto_evaluate": False, **body})
        assert response.status_code == 201, response.text
        return response.json()["id"]


def prompt_lines(output: list[str]) -> str:
    """Return what was printed, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", "".join(output))
