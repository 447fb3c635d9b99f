"""The worker against a real Prefect server: warm runs, cancellation, crashes, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from api.launcher.environment import platform_environment
from api.launcher.services import worker_online
from configs.settings import Settings
from flows.worker.warm_worker import EXPECTED_SECONDS, IDLE_POLL_SECONDS, POLL_SECONDS
from tests.api.launcher.test_preflight import free_port
from tests.api.launcher.test_watch import alive

REPOSITORY = Path(__file__).parents[2]
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not so within {seconds} s")


class Prefect:
    """A running server, seen through its REST API."""

    def __init__(self, folder: Path) -> None:
        self.port, self.folder = free_port(), folder
        settings = Settings(data_dir=folder, prefect_port=self.port)
        self.environment = platform_environment(settings, {**os.environ, "PYTHONPATH": str(REPOSITORY)})
        self.client = httpx.Client(base_url=settings.prefect_api_url, timeout=60)

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{arguments[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start_worker(self) -> subprocess.Popen[bytes]:
        started = datetime.now(UTC)
        process = self.spawn("flows.worker", "--deployments", str(Path(__file__).with_name("sample_prefect.yaml")))
        online = worker_online("127.0.0.1", self.port)
        until(lambda: online(started), seconds=90)
        return process

    def deployment(self, name: str) -> Any:
        return self.client.get(f"/deployments/name/{name}/{name}").json()

    def create(self, name: str, state: dict[str, Any] | None = None, **parameters: Any) -> Any:
        path = f"/deployments/{self.deployment(name)['id']}/create_flow_run"
        answer = self.client.post(path, json={"parameters": parameters, "state": state or {"type": "SCHEDULED"}})
        return answer.json()["id"]

    def state(self, run: str) -> Any:
        return self.client.get(f"/flow_runs/{run}").json()["state"]["type"]

    def ended(self, run: str, seconds: float = 60) -> Any:
        return until(lambda: (state := self.state(run)) in FINAL and state, seconds)

    def logged(self, run: str) -> list[str]:
        filters = {"logs": {"flow_run_id": {"any_": [run]}}}
        return [log["message"] for log in self.client.post("/logs/filter", json=filters).json()]


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    server = Prefect(tmp_path_factory.mktemp("prefect"))
    process = server.spawn("flows.prefect_server")

    def healthy() -> bool:
        try:
            return server.client.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(healthy, seconds=90)
        yield server
    finally:
        server.client.close()
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def worker(prefect: Prefect) -> Iterator[subprocess.Popen[bytes]]:
    process = prefect.start_worker()
    yield process
    process.terminate()
    process.wait(timeout=20)


@pytest.mark.usefixtures("worker")
def test_a_worker_is_online_though_the_clock_was_set_back_after_its_start(prefect: Prefect):
    online = worker_online("127.0.0.1", prefect.port)
    ahead = datetime.now(UTC) + timedelta(hours=1)
    assert not online(ahead)  # its last heartbeat may be that of a worker before it
    until(lambda: online(ahead), seconds=60)


@pytest.mark.usefixtures("worker")
def test_a_run_completes_in_a_warm_process_and_its_log_arrives(prefect: Prefect, tmp_path: Path):
    run = prefect.create("report", folder=str(tmp_path))
    assert prefect.ended(run) == "COMPLETED"
    assert (tmp_path / "warm").read_text() == "True"
    until(lambda: "warm: True, leads its session: True" in prefect.logged(run))


@pytest.mark.usefixtures("worker")
def test_deployments_are_registered_with_schema_and_an_inactive_schedule(prefect: Prefect):
    report, die = prefect.deployment("report"), prefect.deployment("die")
    assert report["work_pool_name"] == "training"
    assert report["entrypoint"] == "tests.flows.sample_flows.report"
    assert report["parameters"] == {"folder": "/nowhere"}
    assert report["parameter_openapi_schema"]["required"] == ["folder"]
    assert [schedule["active"] for schedule in die["schedules"]] == [False]


@pytest.mark.usefixtures("worker")
def test_cancelling_ends_the_process_within_seconds(prefect: Prefect, tmp_path: Path):
    run = prefect.create("wait", folder=str(tmp_path))
    pid = int(until((tmp_path / "pid").exists) and (tmp_path / "pid").read_text())
    cancelled = time.monotonic()
    prefect.client.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLING"}})
    assert prefect.ended(run) == "CANCELLED"
    until(lambda: not psutil.pid_exists(pid))
    assert time.monotonic() - cancelled < 15
    assert (tmp_path / "left").read_text() == "in order"


@pytest.mark.usefixtures("worker")
def test_a_run_that_is_scheduled_for_later_starts_when_it_is_due_though_the_worker_asks_seldom(
    prefect: Prefect, tmp_path: Path
):
    due = datetime.now(UTC) + timedelta(seconds=6)
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": due.isoformat()}}
    run = prefect.create("report", state=later, folder=str(tmp_path))
    assert prefect.ended(run) == "COMPLETED"
    begun = datetime.fromisoformat(prefect.client.get(f"/flow_runs/{run}").json()["start_time"])
    assert due <= begun < due + timedelta(seconds=IDLE_POLL_SECONDS - 6)


@pytest.mark.usefixtures("worker")
def test_an_idle_worker_is_told_of_runs_and_does_not_ask_for_them(prefect: Prefect, tmp_path: Path):
    def asked() -> dict[str, str]:
        queues = prefect.client.post("/work_queues/filter", json={}).json()
        return {queue["work_pool_name"]: queue["last_polled"] for queue in queues}

    time.sleep(2 * EXPECTED_SECONDS + 2 * POLL_SECONDS)  # until it expects none of the runs before
    quiet = asked()
    time.sleep(8 * POLL_SECONDS)
    changed = [pool for pool, when in asked().items() if when != quiet[pool]]
    assert len(changed) < 2, f"both pools were polled within {8 * POLL_SECONDS} s"
    assert prefect.ended(prefect.create("report", folder=str(tmp_path)), seconds=IDLE_POLL_SECONDS - 5) == "COMPLETED"


@pytest.mark.usefixtures("worker")
def test_a_killed_run_is_crashed(prefect: Prefect):
    assert prefect.ended(prefect.create("die")) == "CRASHED"


@pytest.mark.usefixtures("worker")
def test_what_is_deleted_in_prefect_is_made_again(prefect: Prefect, tmp_path: Path):
    deployment = prefect.deployment("report")
    prefect.client.delete(f"/deployments/{deployment['id']}")
    until(lambda: prefect.deployment("report").get("id") not in (None, deployment["id"]))
    pool = prefect.client.get("/work_pools/training").json()["id"]
    prefect.client.delete("/work_pools/training")
    until(lambda: prefect.client.get("/work_pools/training").json().get("id") not in (None, pool))
    until(lambda: prefect.deployment("report")["work_pool_name"] == "training")
    assert prefect.ended(prefect.create("report", folder=str(tmp_path))) == "COMPLETED"
    assert [schedule["active"] for schedule in prefect.deployment("die")["schedules"]] == [False]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_ended_worker_leaves_no_process_and_its_run_may_leave_in_order(
    prefect: Prefect, worker: subprocess.Popen[bytes], tmp_path: Path, number: signal.Signals
):
    started = worker if worker.poll() is None else prefect.start_worker()
    prefect.create("wait", folder=str(tmp_path))
    until((tmp_path / "pid").exists)
    family = psutil.Process(started.pid).children(recursive=True)
    assert len(family) == 3  # the forkserver, its resource tracker, the run
    started.send_signal(number)
    started.wait(timeout=15)
    until(lambda: not alive(family), seconds=15)
    assert (tmp_path / "left").read_text() == "in order"
