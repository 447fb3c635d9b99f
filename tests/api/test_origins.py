"""Pages of other sites change nothing, those of allowed origins may: the API's own endpoints, with and without keys."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from api.app import create_app
from configs.keys import Scope, new_key
from configs.settings import Settings

ALLOWED = "https://app.example"
KEY, CONFIGURED = new_key("browser", Scope.ADMIN)
MODEL = {"name": "By a page", "base_model": "tiny-llama"}
ROWS = b"".join(b'{"prompt": "a%d", "completion": "b"}\n' % number for number in range(40))
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "json": ("/api/models", {"json": MODEL}),
    "json as plain text": ("/api/models", {"content": json.dumps(MODEL), "headers": {"Content-Type": "text/plain"}}),
    "no content type": ("/api/models", {"content": json.dumps(MODEL)}),
    "a form": ("/api/models", {"data": {"name": "x"}}),
    "an upload": ("/api/datasets", {"files": {"file": ("rows.jsonl", ROWS)}}),
    "an upload by OpenAI's endpoint": ("/v1/files", {"files": {"file": ("r", ROWS)}, "data": {"purpose": "fine-tune"}}),
    "text": ("/api/models/1/generate", {"json": {"prompt": "x"}}),
}
HOSTILE = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:4200"},
    {"Origin": "http://localhost:4200", "Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site"},
]


@pytest.fixture(scope="module")
def settings(settings):
    return settings.model_copy(update={"allowed_origins": [ALLOWED]})


@pytest.fixture(scope="module")
def keyed(settings, client):
    update = {"api_keys": str(CONFIGURED)}
    app = create_app(settings.model_copy(update=update))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as keyed:
        yield keyed


def made(client):
    """Return the ids of all that there is; a model's status may change by itself."""
    lists = (client.get(f"/api/{kind}").json() for kind in ("models", "datasets", "audit"))
    return [
        [one["id"] for one in next(value for value in found.values() if isinstance(value, list))] for found in lists
    ]


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("headers", HOSTILE, ids=str)
def test_a_page_of_another_site_changes_nothing(client, what, headers):
    path, options = CHANGES[what]
    before = made(client)
    answer = client.post(path, **options | {"headers": options.get("headers", {}) | headers})
    assert answer.status_code == 403
    error = answer.json()["error"]
    assert "pages of other sites" in (error["message"] if path.startswith("/v1") else error)
    assert (error if path.startswith("/v1") else answer.json())["code"] == "foreign_origin"
    assert made(client) == before


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://localhost"}, {"Origin": ALLOWED}], ids=str)
def test_the_same_requests_of_a_program_or_of_a_page_that_may_are_answered(client, headers):
    for what, (path, options) in CHANGES.items():
        answer = client.post(path, **options | {"headers": options.get("headers", {}) | headers})
        assert answer.status_code != 403, what
        assert answer.headers.get("Access-Control-Allow-Origin") == (ALLOWED if ALLOWED in headers.values() else None)
        if what in ("json", "an upload", "an upload by OpenAI's endpoint"):
            assert answer.is_success, answer.text


@pytest.mark.parametrize("path", ["/api/models", "/v1/files", "/api/training/1/events", "/nothing"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PATCH", "PUT"])
def test_a_preflight_is_answered_without_a_key(client, keyed, path, method):
    asked = {
        "Origin": ALLOWED,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,x-stainless-lang",
        "Access-Control-Request-Private-Network": "true",
    }
    for one in (client, keyed):
        answer = one.options(path, headers=asked)
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == ALLOWED
        assert method in answer.headers["Access-Control-Allow-Methods"]
        assert "idempotency-key" in answer.headers["Access-Control-Allow-Headers"]
        assert answer.headers["Access-Control-Allow-Private-Network"] == "true"
        assert "Access-Control-Allow-Credentials" not in answer.headers
        refused = one.options(path, headers=asked | {"Origin": "https://evil.example"})
        assert refused.status_code == 403
        assert "Access-Control-Allow-Origin" not in refused.headers
        assert "LLM_PLATFORM_ALLOWED_ORIGINS" in refused.json()["error"]


def test_an_allowed_page_still_needs_a_key_and_can_read_that_it_does(keyed):
    headers = {"Origin": ALLOWED, "Sec-Fetch-Site": "cross-site"}
    refused = keyed.post("/api/models", json=MODEL, headers=headers)
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, ALLOWED)
    allowed = keyed.post("/api/models", json=MODEL, headers=headers | {"Authorization": f"Bearer {KEY}"})
    assert allowed.status_code == 201
    # A key is no way around: a page could have been given one.
    evil = {"Origin": "https://evil.example", "Authorization": f"Bearer {KEY}"}
    assert keyed.post("/api/models", json=MODEL, headers=evil).status_code == 403


def test_without_the_setting_no_page_reads_an_answer(settings, client):
    with TestClient(
        create_app(settings.model_copy(update={"allowed_origins": []})), base_url="http://localhost"
    ) as one:
        read = one.get("/api/models", headers={"Origin": ALLOWED})
        assert read.status_code == 200
        assert not [name for name in read.headers if name.startswith("access-control")]
        asked = {"Origin": ALLOWED, "Access-Control-Request-Method": "POST"}
        allowed = one.options("/api/models", headers=asked).headers
        assert not [name for name in allowed if name.startswith("access-control")]
        assert one.post("/api/models", json=MODEL, headers={"Origin": ALLOWED}).status_code == 403


@pytest.mark.parametrize(
    "origin", ["*", "null", "", "app.example", "https://", "https://app.example/", "https://a.example/b", "ftp://a.b"]
)
def test_what_is_no_origin_is_refused_at_the_start(origin):
    with pytest.raises(ValidationError, match="is no origin"):
        Settings(allowed_origins=[origin])


def test_a_path_that_no_database_takes_is_not_found(client):
    assert client.post(f"/api/{quote(chr(0))}").status_code == 404
