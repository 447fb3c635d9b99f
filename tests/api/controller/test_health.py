"""Health tells of every service and of every loop; the probes of the process need no key, no host and no controller."""

import time

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from configs.keys import Scope, new_key
from registry.database import Database
from registry.repositories.models import ModelRepository
from registry.tables import Model
from tests.api.controller.running import running_controller

LOOPS = {
    "lease",
    "changes",
    "services",
    "reconcile",
    "mlflow_sync",
    "ingestion",
    "webhooks",
    "availability",
    "retention",
}


@pytest.fixture
def settings(settings, tmp_path):
    return settings.model_copy(update={"data_dir": tmp_path})


@pytest.fixture
def api(settings):
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        yield client


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


def health(api):
    return api.get("/api/health").json()


def test_without_a_controller_nobody_knows_and_nothing_is_healthy(api):
    answer = health(api)
    assert answer["status"] == "degraded"
    assert answer["parts"]["controller"] == {"status": "starting", "reason": "no controller has begun yet"}
    assert answer["parts"]["database"]["status"] == "ok"
    assert answer["loops"] == {}


def test_a_controller_records_its_loops_and_says_when_it_leaves(api, settings):
    with running_controller(settings):
        until(lambda: health(api)["parts"]["controller"]["status"] == "ok")
        loops = until(lambda: (found := health(api)["loops"]) and found["availability"]["passes"] and found)
        assert set(loops) >= LOOPS
        assert loops["availability"]["ok"]
        assert loops["webhooks"]["last_error"] is None
        # Prefect is not running: the loop that needs it says so, and does not count as well.
        assert "Prefect" in until(lambda: health(api)["loops"]["reconcile"]["last_error"])
        assert health(api)["status"] == "degraded"
    assert health(api)["parts"]["controller"] == {"status": "down", "reason": "the controller has stopped"}


def test_a_damaged_weights_file_ends_no_loop(api, settings, tiny_models_dir):
    folder = settings.data_dir / "models-of-the-test"
    for name in ("tiny-llama", "tiny-gpt2"):
        (folder / name).mkdir(parents=True)
        for file in (tiny_models_dir / name).iterdir():
            (folder / name / file.name).write_bytes(file.read_bytes())
    settings = settings.model_copy(update={"local_models_dir": folder})
    database = Database(settings.platform_database_url)
    with database.transaction() as session:
        for name in ("tiny-llama", "tiny-gpt2"):
            ModelRepository(session).add(Model(name=name, base_model=name, status="LOADING"))

    def status(name):
        with database.reading() as session:
            return ModelRepository(session).availability()[name][0]

    with running_controller(settings):
        until(lambda: status("tiny-llama") == status("tiny-gpt2") == "AVAILABLE")
        (folder / "tiny-llama" / "model.safetensors").write_bytes(b"\xff" * 64)
        until(lambda: status("tiny-llama") == "UNAVAILABLE")
        (folder / "tiny-gpt2" / "model.safetensors").unlink()
        until(lambda: status("tiny-gpt2") == "UNAVAILABLE")
    database.close()


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_need_neither_a_key_nor_a_known_host(settings, path):
    _, configured = new_key("one", Scope.READ)
    keyed = settings.model_copy(update={"api_keys": str(configured)})
    with TestClient(create_app(keyed), base_url="http://10.1.2.3") as client:
        assert client.get(path).status_code == 200
        assert client.get("/api/health").status_code in (400, 401)


def test_a_process_without_its_database_lives_and_is_not_ready(api, settings):
    assert api.get("/readyz").json() == {"status": "ready"}
    file = settings.data_dir / "platform.db"
    api.app.state.platform.database.close()
    moved = file.rename(file.with_name("gone.db"))
    file.mkdir()
    try:
        refused = api.get("/readyz")
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
        assert "database" in refused.json()["error"]
        assert api.get("/livez").status_code == 200
        assert health(api)["parts"]["database"]["status"] == "down"
    finally:
        file.rmdir()
        moved.rename(file)
