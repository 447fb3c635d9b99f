"""Real Prefect and MLflow servers, and trainers as processes of their own; no worker, engine or API beside them."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.controller.reconciler import Reconciler
from api.launcher.environment import platform_environment
from api.orchestration.prefect_client import Orchestrator
from configs.recipe import FinetuneParameters
from configs.settings import Settings
from registry.database import Database, upgrade
from registry.repositories.models import ModelRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import job_of_parameters
from registry.tables import Model, TrainingJob
from tests.e2e.platform_process import ROOT, free_ports

START_SECONDS = 240
REGISTER = (
    "import anyio; from pathlib import Path; from prefect.client.orchestration import get_client;"
    "from flows.deployments import *; specs = read_specs(DEPLOYMENTS_FILE)\n"
    "async def main():\n"
    "    async with get_client() as client:\n"
    "        await ensure_work_pools(client, specs)\n"
    "    await apply_deployments(specs)\n"
    "anyio.run(main)"
)


def until(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """Return the condition's first true value; generous, as the machine may be busy."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds} s for {what}")


class Servers:
    """The platform's database, Prefect and MLflow, and a way to start a trainer."""

    def __init__(self, folder: Path, models_dir: Path) -> None:
        prefect_port, mlflow_port = free_ports(2)
        self.folder = folder
        self.settings = Settings(
            data_dir=folder,
            local_models_dir=models_dir,
            allow_hub=False,
            prefect_port=prefect_port,
            mlflow_port=mlflow_port,
            checkpoint_interval_seconds=2,
        )
        self.environment = platform_environment(self.settings, {**os.environ, "PYTHONPATH": str(ROOT)})
        self.prefect = httpx.Client(base_url=self.settings.prefect_api_url, timeout=60)
        self._processes: list[subprocess.Popen[bytes]] = []
        upgrade(self.settings.platform_database_url)
        self.database = Database(self.settings.platform_database_url)
        with self.database.transaction() as session:
            base = Model(name="Tiny", base_model="tiny-llama", status="AVAILABLE")
            self.model_id = ModelRepository(session).add(base).id

    def start(self) -> None:
        options = ("--host", "127.0.0.1", "--port", str(self.settings.mlflow_port), "--log-level", "warning")
        self.spawn("prefect", "-m", "flows.prefect_server")
        self.spawn("mlflow", "-m", "uvicorn", "mlflow.server.fastapi_app:app", *options)
        for url in (
            f"{self.settings.prefect_api_url}/health",
            f"{self.settings.mlflow_url}/api/2.0/mlflow/experiments/search?max_results=1",
        ):
            until(partial(answers, url), url, START_SECONDS)
        self.register()

    def register(self) -> None:
        """Register the deployments, as the worker does at its start and when one is gone."""
        assert self.spawn("register", "-c", REGISTER).wait(START_SECONDS) == 0, self.log("register")

    def spawn(self, name: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                env={**self.environment, **environment},
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._processes.append(process)
        return process

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def close(self) -> None:
        self.database.close()
        self.prefect.close()
        for process in reversed(self._processes):
            if process.poll() is None:
                process.kill()
            process.wait(30)

    def submit(self, **recipe: Any) -> int:
        """Return the id of a job that Prefect has, and nobody works on."""
        parameters = FinetuneParameters(model_id=self.model_id, job_name="a job", auto_evaluate=False, **recipe)
        with self.database.transaction() as session:
            job_id = TrainingJobRepository(session).add(job_of_parameters(parameters)).id
        self.reconcile()
        return job_id

    def train(self, job_id: int) -> subprocess.Popen[bytes]:
        """Start a process that works on the job, as a worker would."""
        flow_run_id = str(self.job(job_id).flow_run_id)
        return self.spawn(f"trainer-{job_id}", "-m", "prefect.engine", PREFECT__FLOW_RUN_ID=flow_run_id)

    def reconcile(self) -> None:
        """Make one pass of the reconciler."""

        async def one_pass() -> None:
            orchestrator = Orchestrator(self.settings.prefect_api_url, 60)
            try:
                await Reconciler(self.database, orchestrator).reconcile()
            finally:
                await orchestrator.close()

        asyncio.run(one_pass())

    def job(self, job_id: int) -> TrainingJob:
        with self.database.reading() as session:
            return TrainingJobRepository(session).require(job_id)

    def log_lines(self, job_id: int) -> list[str]:
        with self.database.reading() as session:
            return TrainingJobRepository(session).log_lines(job_id)

    def outcomes(self, job_id: int) -> list[str]:
        with self.database.reading() as session:
            return [attempt["outcome"] for attempt in TrainingJobRepository(session).attempts(job_id)]

    def models_of(self, job_id: int) -> Model | None:
        with self.database.reading() as session:
            return ModelRepository(session).of_job(job_id)

    def losses(self, job_id: int) -> list[tuple[int, float]]:
        """Return what clients were told of the loss, by step, in the order of telling."""
        with self.database.reading() as session:
            measured = TrainingJobRepository(session).measured(job_id)
            return [(one["step"], one["loss"]) for one in measured if "loss" in one]


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, tiny_models_dir: Path) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory.mktemp("servers"), tiny_models_dir)
    try:
        servers.start()
        yield servers
    finally:
        servers.close()
