"""A data folder of the first release (tests/fixtures/first_release) is upgraded: every row is there and shown."""

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import inspect, text

from api.app import create_app
from configs.settings import Settings
from registry.stores import Store, platform_stores
from registry.tables import Base
from registry.upgrade import upgrade_stores
from tests.api.shapes import contains
from tests.e2e.platform_process import free_ports
from tests.fixtures.first_release.unpack import unpack
from tests.registry.old_rows import assert_kept, read

FOLDER = Path(__file__).parents[1] / "fixtures" / "first_release"
ANSWERS = json.loads((FOLDER / "answers.json").read_text())
# What is found out anew at every start: whether and where a model's weights are on this machine.
OF_THE_MACHINE = {"status", "status_reason", "model_size", "updated_at"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory, tiny_models_dir):
    data = tmp_path_factory.mktemp("first-release")
    unpack(data)
    prefect_port, mlflow_port, engine_port = free_ports(3)
    return Settings(
        data_dir=data,
        local_models_dir=tiny_models_dir,
        allow_hub=False,
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
        engine_port=engine_port,
    )


@pytest.fixture(scope="module")
def rows(settings):
    """Every row of the platform's tables before the upgrade."""
    return read(platform_stores(settings)[0].url)


@pytest.fixture(scope="module")
def counts(settings):
    """How many rows MLflow's and Prefect's tables had before the upgrade."""
    return [count_rows(store) for store in platform_stores(settings)[1:]]


def count_rows(store: Store) -> dict[str, int]:
    with store.connection() as connection:
        tables = inspect(connection).get_table_names()
        return {name: connection.scalar(text(f'SELECT count(*) FROM "{name}"')) for name in tables}


@pytest.fixture(scope="module")
def said(settings, rows, counts):
    lines: list[str] = []
    upgrade_stores(settings, lines.append)
    return lines


@pytest.fixture(scope="module")
def client(settings, said):
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        yield client


def test_every_row_is_there_in_tables_of_today(settings, rows, said):
    platform = platform_stores(settings)[0]
    assert_kept(rows, read(platform.url))
    found = {table: len(rows[table]) for table in ("models", "training_jobs", "evaluations", "idempotency_keys")}
    assert found == {"models": 5, "training_jobs": 2, "evaluations": 1, "idempotency_keys": 3}
    assert len(rows["job_events"]) > 5
    expected = {table: set(found.columns.keys()) for table, found in Base.metadata.tables.items()}
    with platform.connection() as connection:
        present = inspect(connection)
        assert {name: {one["name"] for one in present.get_columns(name)} for name in expected} == expected


def test_mlflow_and_prefect_have_what_they_had(settings, counts, said):
    for before, store in zip(counts, platform_stores(settings)[1:], strict=True):
        assert store.revision() == store.known().head or store.name == "prefect"
        after = count_rows(store)
        assert {name: after[name] for name in before} == before
    assert (counts[0]["registered_models"], counts[1]["flow_run"]) == (1, 3)


def test_the_tables_before_are_kept_as_a_snapshot(settings, rows, said):
    (snapshot,) = (settings.data_dir / "snapshots").glob("platform-0001-*.db")
    assert read(f"sqlite:///{snapshot}") == rows
    assert any(str(snapshot) in line for line in said)


@pytest.mark.parametrize("kind", ["models", "training", "evaluations"])
def test_lists_and_details_say_what_the_first_release_said(client, kind):
    ignored = OF_THE_MACHINE if kind == "models" else set()
    (listed,) = (value for value in client.get(f"/api/{kind}").json().values() if isinstance(value, list))
    assert [one["id"] for one in listed] == [one["id"] for one in ANSWERS[kind]]
    for before in ANSWERS[kind]:
        answer = client.get(f"/api/{kind}/{before['id']}").json()
        assert contains(answer, {name: value for name, value in before.items() if name not in ignored})


def test_statistics_go_on_counting(client):
    before = {name: value for name, value in ANSWERS["statistics"].items() if name != "timestamp"}
    assert contains(client.get("/api/statistics").json(), before)


def test_a_request_repeated_after_the_upgrade_is_answered_as_before(client):
    body = {"name": "Tiny", "base_model": "tiny-llama"}
    answer = client.post("/api/models", json=body, headers={"Idempotency-Key": "the-model"})
    assert (answer.status_code, answer.json()["id"]) == (201, 4)
    assert len(client.get("/api/models").json()["models"]) == len(ANSWERS["models"])


def test_the_events_of_the_first_release_are_lines_of_a_log(client):
    for job in ANSWERS["training"]:
        events = client.get(f"/api/training/{job['id']}/events").json()["events"]
        assert [event["data"]["message"] for event in events] == job["logs"].splitlines()
        assert {event["kind"] for event in events} == {"log"}
