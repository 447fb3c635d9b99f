"""The whole platform, Prefect and MLflow included, on a real PostgreSQL: jobs, evaluations, webhooks, and an outage."""

import json

import httpx
import psycopg
import pytest

from tests.api.webhooks.receiver import ALL, Receiver
from tests.e2e.platform_process import PlatformProcess, free_ports
from tests.e2e.tiny_job import STEPS, act, assert_mlflow_agrees, event_steps, history, start, wait_for_step
from tests.postgresql_server import PostgresqlServer, find_programs

DATABASES = {"LLM_PLATFORM": "platform", "MLFLOW": "mlflow", "PREFECT": "prefect"}


@pytest.fixture(scope="module")
def server():
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed: `make postgresql` installs Debian's")
    server = PostgresqlServer(programs, free_ports(1)[0])
    for name in DATABASES.values():
        server.create_database(name)
    yield server
    server.close()


@pytest.fixture(scope="module")
def platform(server, tmp_path_factory, models_dir):
    process = PlatformProcess(tmp_path_factory.mktemp("platform-on-postgresql"), models_dir)
    process.environment |= {
        "LLM_PLATFORM_DATABASE_URL": server.url("platform"),
        "LLM_PLATFORM_MLFLOW_DATABASE_URL": server.url("mlflow"),
        "LLM_PLATFORM_PREFECT_DATABASE_URL": server.url("prefect", driver="asyncpg"),
        # A PostgreSQL that is restarted is back within seconds: a message need not wait for longer.
        "LLM_PLATFORM_WEBHOOK_RETRY_SECONDS": "0.5",
    }
    process.start()
    yield process
    process.close()


@pytest.fixture(scope="module")
def tiny_model(platform):
    return platform.http.post("/models", json={"name": "Tiny", "base_model": "tiny-llama"}).json()["id"]


def count(server: PostgresqlServer, database: str, table: str) -> int:
    with psycopg.connect(server.url(database).replace("+psycopg", "")) as connection:
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,)
        return int(rows)


def test_a_job_is_paused_and_resumed_and_its_end_and_its_model_are_told(platform, server, tiny_model):
    v1 = platform.base_url.replace("/api", "/v1")
    with Receiver() as receiver:
        body = {"name": "mine", "url": receiver.url, "event_types": ALL}
        httpx.post(f"{v1}/webhook_endpoints", json=body).raise_for_status()
        job_id = start(platform, tiny_model, auto_evaluate=True)
        assert act(platform, job_id, "pause")["status"] == "PAUSED"
        assert_mlflow_agrees(platform, job_id)
        assert act(platform, job_id, "resume")["status"] == "RUNNING"
        job = platform.wait_for_job(job_id, "COMPLETED")
        event = json.loads(receiver.next().body)
        assert (event["type"], event["data"]["id"]) == ("fine_tuning.job.succeeded", f"ftjob-{job_id}")
        assert receiver.received.empty()
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["paused", "completed"]
    assert event_steps(platform, job) == list(range(1, STEPS + 1))
    assert_mlflow_agrees(platform, job_id)

    made = f"/models/{job['output_model_id']}"
    answer = platform.http.post(f"{made}/generate", json={"prompt": "Hi", "max_new_tokens": 3})
    assert answer.status_code == 200, answer.text
    evaluation = platform.http.post(f"{made}/evaluate", json={"max_samples": 4})
    assert evaluation.status_code == 201, evaluation.text
    assert evaluation.json()["metrics"]["perplexity"] > 0
    assert platform.http.get("/statistics").json()["total_generations"] == 1
    # It is this server that has it all, in three databases.
    assert count(server, "platform", "training_jobs") == 1
    assert count(server, "mlflow", "runs") >= 2
    assert count(server, "prefect", "flow_run") >= 2


def test_a_job_goes_on_while_postgresql_is_restarted_and_loses_nothing(platform, server, tiny_model):
    job_id = start(platform, tiny_model)
    server.stop()
    response = platform.http.get(f"/training/{job_id}")
    assert (response.status_code, response.json()["details"]["part"]) == (503, "database")
    server.start()
    platform.wait_until(lambda: platform.http.get(f"/training/{job_id}").status_code == 200, 60, "the API to answer")
    wait_for_step(platform, job_id, 10)
    job = platform.wait_for_job(job_id, "COMPLETED")
    assert event_steps(platform, job) == list(range(1, STEPS + 1))
    assert [step for step, _ in history(platform, job)["loss"]] == list(range(1, STEPS + 1))
    platform.wait_until(lambda: platform.health() == "healthy", 120, "every service to answer")
    assert_mlflow_agrees(platform, job_id)
    after = platform.train(model_id=tiny_model, max_steps=2)
    assert platform.wait_for_job(after, "COMPLETED")["output_model_id"]
