"""What goes wrong in the database: each kind has its own status, on SQLite and on PostgreSQL alike."""

import re
from uuid import uuid4

import psycopg
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, exc, text

from api.app import create_app
from api.errors import install_error_handlers
from configs.settings import Settings
from registry.database import Database
from registry.repositories.training_jobs import TrainingJobRepository
from registry.tables import Model, TrainingJob

TOO_LARGE = ["99999999999999999999", str(2**31), str(2**63), str(2**64), "0", "-1", "1.5", "one", "%00", "1e3"]
PATHS = [
    ("GET", "/api/models/{}"),
    ("DELETE", "/api/models/{}"),
    ("POST", "/api/models/{}/promote"),
    ("POST", "/api/models/{}/evaluate"),
    ("GET", "/api/training/{}"),
    ("DELETE", "/api/training/{}"),
    ("GET", "/api/training/{}/events"),
    ("POST", "/api/training/{}/pause"),
    ("POST", "/api/training/{}/resume"),
    ("POST", "/api/training/{}/cancel"),
    ("POST", "/api/training/{}/restart"),
    ("GET", "/api/evaluations/{}"),
    ("DELETE", "/api/evaluations/{}"),
    ("GET", "/api/evaluations/{}/samples"),
    ("GET", "/api/datasets/{}"),
    ("GET", "/api/datasets/{}/preview"),
    ("DELETE", "/api/datasets/{}"),
    ("GET", "/v1/models/{}"),
    ("DELETE", "/v1/models/{}"),
    ("GET", "/v1/files/file-{}"),
    ("DELETE", "/v1/files/file-{}"),
    ("GET", "/v1/files/file-{}/content"),
    ("GET", "/v1/files/file-results-{}"),
    ("GET", "/v1/fine_tuning/jobs/ftjob-{}"),
    ("GET", "/v1/fine_tuning/jobs/ftjob-{}/events"),
    ("GET", "/v1/fine_tuning/jobs/ftjob-{}/checkpoints"),
    ("POST", "/v1/fine_tuning/jobs/ftjob-{}/cancel"),
    ("GET", "/v1/webhook_endpoints/webhook-{}"),
    ("DELETE", "/v1/webhook_endpoints/webhook-{}"),
    ("GET", "/v1/webhook_endpoints/webhook-{}/deliveries"),
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def either(request, settings, tmp_path_factory):
    """The API over either kind of database."""
    update = {"data_dir": tmp_path_factory.mktemp("either")}
    if request.param == "postgresql":
        update["database_url"] = request.getfixturevalue("new_postgresql_database")()
    app = create_app(Settings(**settings.model_dump() | update))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def database(either):
    database = Database(either.app.state.platform.settings.platform_database_url)
    yield database
    database.close()


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_an_id_that_nothing_can_have_is_not_found(either, method, path):
    for number in TOO_LARGE:
        response = either.request(method, path.format(number))
        # Evaluating and promoting ask first whether the services are there, which they are not here.
        accepted = (404, 503) if path.endswith(("/evaluate", "/promote")) else (404,)
        assert response.status_code in accepted, (number, response.text)
        assert response.json()["error"]


def test_every_route_with_an_id_is_among_them(either):
    documented = either.get("/api/openapi.json").json()["paths"]
    with_ids = {
        (method.upper(), re.sub(r"{[^}]*}", "{}", path))
        for path, methods in documented.items()
        if "{" in path and not path.startswith(("/v1/responses", "/v1/conversations"))  # their ids are texts
        for method in methods
    }
    known = {(method, re.sub(r"[a-z-]*-{}", "{}", path)) for method, path in PATHS}
    known.add(("DELETE", "/api/keys/{}"))  # a name, not an id
    # What wants a body refuses that first where it is none.
    assert {(method, path) for method, path in with_ids - known if method != "POST"} == set()


def test_a_loss_that_is_no_number_is_null_in_every_answer(either, database):
    """Also where an older version has stored it: PostgreSQL has a NaN for that."""
    recipe = {"epochs": 1, "learning_rate": 0.1, "batch_size": 1, "dataset_id": None, "seed": 1}
    with database.transaction() as session:
        model = Model(name="m", base_model="gpt2", status="AVAILABLE")
        session.add(model)
        session.flush()
        job = TrainingJob(uid=uuid4().hex, model_id=model.id, job_name="job", recipe=recipe, status="COMPLETED")
        jobs = TrainingJobRepository(session)
        jobs.add(job)
        jobs.add_events(
            job.id,
            [("step", {"step": 1, "loss": float("nan")}), ("evaluation", {"step": 1, "eval_loss": float("inf")})],
        )
        job.current_loss, job.eval_loss, job.tokens_per_second = float("nan"), float("inf"), float("-inf")
    answer = either.get(f"/api/training/{job.id}")
    assert answer.status_code == 200, answer.text
    assert [answer.json()[name] for name in ("current_loss", "eval_loss", "tokens_per_second")] == [None] * 3
    events = either.get(f"/api/training/{job.id}/events").json()["events"]
    assert [event["data"]["not_finite"] for event in events] == [{"loss": "nan"}, {"eval_loss": "inf"}]
    stream = either.get(f"/api/training/{job.id}/events", headers={"Accept": "text/event-stream"})
    assert "NaN" not in stream.text
    told = either.get(f"/v1/fine_tuning/jobs/ftjob-{job.id}/events")
    assert told.status_code == 200, told.text
    assert [one["message"] for one in told.json()["data"]] == [
        "Step 1: held-out loss inf",
        "Step 1: training loss nan",
    ]
    assert either.get(f"/v1/files/file-results-{job.id}/content").text.splitlines()[1] == "1,,,,"


def test_each_kind_of_error_has_its_status(either, database):
    """Real errors of the real database, raised in a route."""
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/{kind}")
    def fail(kind: str) -> None:
        with database.transaction() as session:
            if kind == "foreign key":
                session.add(TrainingJob(uid="u", model_id=10**6, job_name="j", recipe={}))
                session.flush()
            elif kind == "unique":
                for _ in range(2):
                    session.add(TrainingJob(uid="same", model_id=1, job_name="j", recipe={}))
                    session.flush()
            elif kind == "value":
                session.add(TrainingJob(uid="v" * 33 + "\0", model_id=1, job_name="j", recipe={}))
                session.flush()
            elif kind == "statement":
                session.execute(text("SELEC 1"))

    client = TestClient(app, raise_server_exceptions=False)
    for kind in ("foreign key", "unique"):
        response = client.get(f"/{kind}")
        assert (response.status_code, response.json()["code"]) == (409, "conflict"), response.text
    if database.engine.dialect.name == "postgresql":
        assert client.get("/value").status_code == 422
        # A statement that is wrong is our mistake; SQLite does not tell it from a database that fails.
        assert client.get("/statement").status_code == 500


@pytest.mark.parametrize(
    "error",
    [
        exc.OperationalError("SELECT 1", {}, psycopg.OperationalError("gone")),
        exc.InterfaceError("SELECT 1", {}, psycopg.InterfaceError("closed")),
        exc.TimeoutError("no connection is free"),
    ],
)
def test_a_database_that_does_not_answer_is_a_503(error):
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/")
    def fail() -> None:
        raise error

    response = TestClient(app, raise_server_exceptions=False).get("/")
    assert (response.status_code, response.json()["details"]) == (503, {"part": "database"})
    assert response.headers["Retry-After"]


def test_a_postgresql_that_is_not_there_is_an_operational_error():
    engine = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none", connect_args={"connect_timeout": 2})
    with pytest.raises(exc.OperationalError):
        engine.connect()
