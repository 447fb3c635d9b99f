"""Ended flow runs go from a real Prefect server with their logs; those that a job can be restarted by stay."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import httpx
import pytest

from registry.repositories.training_jobs import TrainingJobRepository
from tests.flows.test_worker import Prefect, until

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "prefect-server"
    folder.mkdir()
    server = Prefect(folder)
    process = server.spawn("flows.prefect_server")
    until(lambda: answers(server), seconds=240)
    yield server
    server.client.close()
    process.terminate()
    process.wait(60)


def answers(server) -> bool:
    try:
        return server.client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def made(server, flow: str, state: str) -> str:
    """Return the id of a flow run that is in this state, with a line of log."""
    body = {"flow_id": flow, "name": f"a {state} run", "state": {"type": "PENDING"}}
    run = server.client.post("/flow_runs/", json=body).json()["id"]
    server.client.post(f"/flow_runs/{run}/set_state", json={"state": {"type": state}, "force": True})
    line = {"name": "log", "level": 20, "message": "a line", "timestamp": "2026-01-01T00:00:00Z", "flow_run_id": run}
    server.client.post("/logs/", json=[line])
    return run


def logged(server, runs) -> set[str]:
    found = server.client.post("/logs/filter", json={"logs": {"flow_run_id": {"any_": list(runs)}}}).json()
    return {line["flow_run_id"] for line in found}


def test_ended_runs_go_unless_a_job_can_be_restarted_by_them(world, server):
    changes = {"keep_flow_runs_days": 30.0, "prefect_port": server.port}
    world.settings = world.settings.model_copy(update=changes)
    flow = server.client.post("/flows/", json={"name": f"flow-{uuid4().hex}"}).json()["id"]
    gone = {made(server, flow, state) for state in ENDED}
    kept = {made(server, flow, state) for state in ("RUNNING", "PAUSED", "SCHEDULED")}
    for status in ("COMPLETED", "FAILED", "CANCELLED"):
        run = made(server, flow, status)
        (gone if status == "COMPLETED" else kept).add(run)
        job = world.job(status)
        with world.database.transaction() as session:
            TrainingJobRepository(session).require(job.id).flow_run_id = run
    assert world.collect(days=10).removed == []
    assert len(world.collect(dry_run=True).removed) == len(gone)
    report = world.collect()
    assert (report.failures, report.count) == ([], len(gone))
    left = {one["id"] for one in server.client.post("/flow_runs/filter", json={}).json()}
    assert left == kept
    until(lambda: logged(server, gone) == set(), seconds=60)
    assert logged(server, kept) == kept


@contextmanager
def listing(runs: int) -> Iterator[tuple[int, list[int], set[str]]]:
    """Answer as Prefect does about so many ended runs: yields its port, the connections made, and what was deleted."""
    connections: list[int] = []
    deleted: set[str] = set()

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            connections.append(self.client_address[1])
            super().setup()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(200, json.dumps([{"id": f"run-{n}", "name": "a run"} for n in range(runs)]).encode())

        def do_DELETE(self) -> None:
            deleted.add(self.path.rpartition("/")[2])
            self._answer(204, b"")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port, connections, deleted
    server.shutdown()
    thread.join()
    server.server_close()


def test_one_client_removes_all_runs(world):
    """Each client takes memory of the controller, which runs for years; 720 of them left 40 MB."""
    with listing(60) as (port, connections, deleted):
        world.settings = world.settings.model_copy(update={"keep_flow_runs_days": 0.0, "prefect_port": port})
        assert world.collect().failures == []
        assert deleted == {f"run-{number}" for number in range(60)}
        assert len(connections) == 1
