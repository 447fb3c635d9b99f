"""Keys made and revoked while two API processes run, who made what, and the audit log of it all."""

import json
import time

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from api.app import create_app
from configs.keys import Scope, new_key
from registry.tables import IdempotencyKey

MADE = {scope: new_key(f"a-{scope}-key", scope) for scope in Scope}
MODEL = {"name": "Keyed", "base_model": "tiny-llama"}
HONOURED_SECONDS = 20.0
"""Two seconds are promised; a busy machine gets longer."""


@pytest.fixture(scope="module")
def settings(settings):
    keys = ",".join(str(configured) for _, configured in MADE.values())
    return settings.model_copy(update={"api_keys": keys, "webhook_allow_internal": True})


@pytest.fixture(scope="module")
def other(settings, client):
    """A second API process over the same database, but for the process."""
    with TestClient(create_app(settings), base_url="http://localhost", raise_server_exceptions=False) as other:
        yield other


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


ADMIN, WRITE, READ = (bearer(MADE[scope][0]) for scope in (Scope.ADMIN, Scope.WRITE, Scope.READ))


def make(client, name, scope="read", **headers):
    answer = client.post("/api/keys", json={"name": name, "scope": scope}, headers=ADMIN | headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


def status_with(client, key):
    return client.get("/api/models", headers=bearer(key)).status_code


def wait_for_status(client, key, wanted):
    deadline = time.monotonic() + HONOURED_SECONDS
    while status_with(client, key) != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_key_is_made_used_and_revoked_in_every_process(client, other):
    made = make(client, "ci", "write")
    assert status_with(client, made["key"]) == 200
    wait_for_status(other, made["key"], 200)
    revoked = other.delete(f"/api/keys/{made['id']}", headers=ADMIN)
    assert revoked.status_code == 200
    assert (revoked.json()["revoked_by"], revoked.json()["name"]) == ("a-admin-key", "ci")
    assert status_with(other, made["key"]) == 401
    wait_for_status(client, made["key"], 401)
    listed = {key["id"]: key for key in client.get("/api/keys", headers=ADMIN).json()["keys"]}
    assert listed[made["id"]]["revoked_at"] is not None
    assert listed[made["id"]]["created_by"] == "a-admin-key"
    assert made["key"] not in json.dumps(listed)
    assert client.delete(f"/api/keys/{made['id']}", headers=ADMIN).status_code == 404


def test_a_key_of_the_settings_is_revoked_without_a_restart_and_stays_so(settings, client):
    key, configured = new_key("configured", Scope.READ)
    with_it = settings.model_copy(update={"api_keys": f"{settings.api_keys},{configured}"})
    for start in range(2):
        with TestClient(create_app(with_it), base_url="http://localhost") as started:
            if start == 0:
                assert status_with(started, key) == 200
                ids = {one["name"]: one for one in started.get("/api/keys", headers=ADMIN).json()["keys"]}
                assert ids["configured"]["source"] == "settings"
                assert started.delete(f"/api/keys/{ids['configured']['id']}", headers=ADMIN).status_code == 200
            assert status_with(started, key) == 401


def test_the_last_admin_key_is_kept(client):
    ids = {key["name"]: key["id"] for key in client.get("/api/keys", headers=ADMIN).json()["keys"]}
    refused = client.delete(f"/api/keys/{ids['a-admin-key']}", headers=ADMIN)
    assert refused.status_code == 409
    assert "only one of the scope admin" in refused.json()["error"]
    second = make(client, "second", "admin")
    assert client.delete(f"/api/keys/{second['id']}", headers=bearer(second["key"])).status_code == 200
    assert status_with(client, second["key"]) == 401


def test_a_repeated_request_makes_one_key_and_shows_it_once(client):
    first, again = (make(client, "once", **{"Idempotency-Key": "k1"}) for _ in range(2))
    assert again["id"] == first["id"]
    assert (first["key"] is None, again["key"]) == (False, None)
    assert "first answer" in again["message"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_keys_and_audit_are_for_admins(client, method):
    for headers in (READ, WRITE):
        for path in ("/api/keys", "/api/keys/0123456789abcdef", "/api/audit"):
            assert client.request(method, path, headers=headers).status_code == 403


@pytest.mark.parametrize(
    "body", [{}, {"name": ""}, {"name": "a:b"}, {"name": "a" * 65}, {"name": "a\n"}, {"name": "a", "scope": "root"}]
)
def test_what_is_no_name_or_scope_is_refused(client, body):
    assert client.post("/api/keys", json=body, headers=ADMIN).status_code == 422


def test_without_keys_none_can_be_made(settings):
    with TestClient(create_app(settings.model_copy(update={"api_keys": None})), base_url="http://localhost") as keyless:
        assert keyless.get("/api/keys").status_code == 200
        assert keyless.post("/api/keys", json={"name": "a"}).status_code == 409
        assert keyless.delete("/api/keys/0123456789abcdef").status_code == 409
        keyless.post("/api/models", json=MODEL).raise_for_status()
        newest = keyless.get("/api/audit?order=desc&limit=1").json()["entries"][0]
        assert (newest["created_by"], newest["path"], newest["status"]) == (None, "/api/models", 201)


def test_every_record_says_whose_key_made_it(client, database):
    writer = bearer(make(client, "writer", "write")["key"])
    model = client.post("/api/models", json=MODEL, headers=writer).json()["id"]
    assert client.get(f"/api/models/{model}", headers=READ).json()["created_by"] == "writer"
    assert client.get("/api/models/1", headers=READ).json()["created_by"] is None
    rows = b"".join(b'{"prompt": "a%d", "completion": "b"}\n' % number for number in range(40))
    dataset = client.post("/api/datasets", files={"file": ("rows.jsonl", rows)}, headers=writer).json()
    assert dataset["created_by"] == "writer"
    job = client.post("/api/training", json={"model_id": model, "job_name": "j", "max_steps": 1}, headers=writer).json()
    assert client.get(f"/api/training/{job['id']}", headers=READ).json()["created_by"] == "writer"
    hook = {"name": "h", "url": "http://127.0.0.1:9/", "event_types": ["fine_tuning.job.failed"]}
    webhook = client.post("/v1/webhook_endpoints", json=hook, headers=writer).json()
    assert webhook["created_by"] == "writer"


def audit(client, **query):
    answer = client.get("/api/audit", params=query, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_audit_log_lists_what_was_changed_and_nothing_else(client):
    start = audit(client, order="desc", limit=1)["entries"]
    after = start[0]["id"] if start else 0
    created = client.post("/api/models", json=MODEL, headers=WRITE).json()["id"]
    client.get("/api/models", headers=READ)
    client.post(f"/api/models/{created}/generate", json={"prompt": "x"}, headers=READ)
    assert client.post("/api/models", json={"name": "x"}, headers=WRITE).status_code == 422
    assert client.post("/api/models", json=MODEL, headers=READ).status_code == 403
    assert client.delete("/api/models/999999", headers=ADMIN).status_code == 404
    client.delete(f"/api/models/{created}", headers=ADMIN).raise_for_status()
    found = audit(client, after=after)["entries"]
    shown = [(one["created_by"], one["method"], one["path"], one["resource"], one["status"]) for one in found]
    assert shown == [
        ("a-write-key", "POST", "/api/models", str(created), 201),
        ("a-admin-key", "DELETE", f"/api/models/{created}", str(created), 200),
    ]
    assert audit(client, after=after, key="a-write-key")["entries"] == found[:1]
    assert audit(client, after=after, method="DELETE")["entries"] == found[1:]
    assert audit(client, after=after, path=f"/api/models/{created}")["entries"] == found[1:]
    assert audit(client, created_after=found[0]["created_at"])["entries"] == found[1:]
    assert audit(client, limit=1, after=after) == {"entries": found[:1], "next_after": found[0]["id"]}
    assert audit(client, limit=2, after=after)["next_after"] is None
    assert client.get("/api/audit?created_after=5", headers=ADMIN).status_code == 422


def test_a_change_that_cannot_be_written_down_is_not_made(client, database):
    before = client.get("/api/models", headers=READ).json()
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE audit_log RENAME TO away"))
    try:
        answer = client.post("/api/models", json=MODEL, headers=WRITE)
    finally:
        with database.engine.begin() as connection:
            connection.execute(text("ALTER TABLE away RENAME TO audit_log"))
    assert (answer.status_code, "nothing was changed" in answer.json()["error"]) == (503, True)
    assert client.get("/api/models", headers=READ).json() == before


def test_a_repeated_webhook_has_its_secret_and_no_remembered_answer_does(client, database):
    hook = {"name": "h", "url": "http://127.0.0.1:9/", "event_types": ["fine_tuning.job.failed"]}
    headers = WRITE | {"Idempotency-Key": "hook"}
    first, again = (client.post("/v1/webhook_endpoints", json=hook, headers=headers).json() for _ in range(2))
    assert first == again
    assert first["signing_secret"].startswith("whsec_")
    with database.reading() as session:
        remembered = [one.response for one in session.scalars(select(IdempotencyKey))]
    assert remembered
    assert first["signing_secret"] not in json.dumps(remembered)
    path = f"/v1/webhook_endpoints/{first['id']}"
    rotated = client.post(f"{path}/rotate_secret", headers=WRITE).json()["signing_secret"]
    assert client.post("/v1/webhook_endpoints", json=hook, headers=headers).json()["signing_secret"] == rotated
