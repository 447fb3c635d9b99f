"""The whole platform, Prefect and MLflow included, on a real PostgreSQL, with keys and a password.

Jobs, evaluations, webhooks, an outage, pages that ask who one is; and afterwards no secret is anywhere in clear.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import psycopg
import pytest
from playwright.sync_api import Error as BrowserError

from configs.keys import Scope, new_key
from tests.api.webhooks.receiver import ALL, Receiver
from tests.e2e.browser import WINDOW, chromium, find_chromium
from tests.e2e.platform_process import PlatformProcess, free_ports
from tests.e2e.tiny_job import STEPS, act, assert_mlflow_agrees, event_steps, history, start, wait_for_step
from tests.postgresql_server import PostgresqlServer, find_programs

CHROMIUM = find_chromium()
PASSWORD = "correct-horse-battery-staple"
KEY, CONFIGURED = new_key("anna", Scope.ADMIN)
OWN_SECRET = "LLM_PLATFORM_SERVICES_SECRET"
WEBHOOK_SECRETS: list[str] = []
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
        "LLM_PLATFORM_DATABASE_URL": server.url("platform", password=PASSWORD),
        "LLM_PLATFORM_MLFLOW_DATABASE_URL": server.url("mlflow", password=PASSWORD),
        "LLM_PLATFORM_PREFECT_DATABASE_URL": server.url("prefect", driver="asyncpg", password=PASSWORD),
        "LLM_PLATFORM_API_KEYS": str(CONFIGURED),
        # A PostgreSQL that is restarted is back within seconds: a message need not wait for longer.
        "LLM_PLATFORM_WEBHOOK_RETRY_SECONDS": "0.5",
    }
    process.http.headers["Authorization"] = f"Bearer {KEY}"
    process.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_TOKEN", KEY)  # for MLflow's own client in this process
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
        made = platform.http.post(f"{v1}/webhook_endpoints", json=body, headers={"Idempotency-Key": "once"})
        WEBHOOK_SECRETS.append(made.raise_for_status().json()["signing_secret"])
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


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed; `make browser` installs it (Debian, as root)")
    with chromium(CHROMIUM) as running:
        yield running


def test_mlflows_pages_ask_the_browser_and_take_the_key_as_a_password(platform, browser):
    url = f"http://localhost:{platform.ports['mlflow']}/"
    asked = httpx.get(url)
    assert (asked.status_code, asked.headers["WWW-Authenticate"].split()[0]) == (401, "Basic")
    for password in (None, "wrong", KEY):
        credentials = None if password is None else {"username": "any", "password": password}
        context = browser.new_context(viewport=WINDOW, http_credentials=credentials)
        page = context.new_page()
        try:
            status = page.goto(url, wait_until="domcontentloaded").status
        except BrowserError as error:  # it may show the refusal, or say that there is nothing to show
            status = 401 if "ERR_INVALID_AUTH_CREDENTIALS" in str(error) else str(error)
        assert status == (200 if password == KEY else 401)
        if status == 200:
            page.get_by_text("Experiments", exact=True).first.wait_for()
        context.close()


def test_prefects_pages_have_a_login_that_takes_the_key(platform, browser):
    context = browser.new_context(viewport=WINDOW)
    page = context.new_page()
    page.goto(f"http://localhost:{platform.ports['prefect']}/runs", wait_until="domcontentloaded")
    password = page.locator("input[type=password]")
    password.wait_for()
    password.fill("wrong")
    page.get_by_role("button", name="Login").click()
    page.get_by_text("Authentication failed.").first.wait_for()
    password.fill(KEY)
    page.get_by_role("button", name="Login").click()
    password.wait_for(state="detached")
    page.get_by_role("button", name="Deployments", exact=True).wait_for()
    context.close()


def test_no_secret_is_anywhere_in_clear(platform, server):
    """Last: everything above has been written by now, an outage's errors with the address of the database included."""
    environments = [process.environ() for process in platform.processes()]
    secrets = {
        "the key": KEY,
        "the password": PASSWORD,
        "a webhook's secret": WEBHOOK_SECRETS[0],
        "the services' own secret": next(one[OWN_SECRET] for one in environments if OWN_SECRET in one),
    }
    written = {str(file): file.read_text(errors="replace") for file in texts_of(platform.data_dir)}
    written["what `make run` printed"] = "".join(platform.output)
    written["the list of processes"] = "\n".join(" ".join(process.cmdline()) for process in platform.processes())
    for path in ("/health", "/audit?limit=1000", "/keys", "/training?limit=100", "/evaluations"):
        written[path] = platform.http.get(path).text
    written["/metrics"] = platform.http.get(platform.base_url.replace("/api", "/metrics")).text
    for name in ("mlflow", "prefect"):
        written[f"the database {name}"] = server.dump(name)
    # A webhook's secret is kept where messages are signed with it, and nowhere else.
    written["the database platform"] = server.dump("platform", "--exclude-table-data=webhooks")
    assert "anna" in written["the database platform"]
    found = [(what, where) for what, secret in secrets.items() for where, text in written.items() if secret in text]
    assert found == []


def texts_of(folder: Path) -> list[Path]:
    """Return the logs and settings in a data folder; weights and rows hold no secrets and are large."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size < 50 * 2**20]
    return [file for file in files if file.suffix != ".safetensors"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:5432"])
def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path, address):
    url = f"postgresql+psycopg://anna:{PASSWORD}@{address}/platform"
    environment = {**os.environ, "LLM_PLATFORM_DATA_DIR": str(tmp_path), "LLM_PLATFORM_DATABASE_URL": url}
    command = [str(Path(sys.executable).with_name("llm-platform")), "up"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode != 0
    assert address.partition(":")[0] in done.stdout + done.stderr
    assert PASSWORD not in done.stdout + done.stderr
