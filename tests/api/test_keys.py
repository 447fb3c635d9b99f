"""With keys on, no endpoint answers without a sufficient one, whatever it is; without keys every endpoint is open."""

import re

import openai
import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from starlette.websockets import WebSocketDisconnect

from api.app import create_app
from api.errors import OPENAIS
from api.keys import GUARDING, needed_scope
from configs.keys import Scope, new_key

MADE = {scope: new_key(f"a-{scope}-key", scope) for scope in Scope}
BEYOND_ROUTES = (
    ("GET", "/"),
    ("GET", "/nothing/here"),
    ("POST", "/v1/nothing"),
    ("TRACE", "/api/health"),
    ("GET", "/api/static/swagger-ui/swagger-ui.css"),
)


@pytest.fixture(scope="module")
def settings(settings):
    return settings.model_copy(update={"api_keys": ",".join(str(configured) for _, configured in MADE.values())})


def bearer(scope: Scope) -> dict[str, str]:
    return {"Authorization": f"Bearer {MADE[scope][0]}"}


@pytest.fixture(scope="module")
def operations(client):
    """Every method and path that the running app routes, paths as their templates; a mount is read."""
    contexts = iter_route_contexts(client.app.routes)
    found = {(method, context.path) for context in contexts for method in getattr(context, "methods", None) or ["GET"]}
    documented = {
        (method.upper(), path) for path, methods in client.app.openapi()["paths"].items() for method in methods
    }
    undocumented = {("GET", path) for path in ("/metrics", "/api/docs", "/api/openapi.json")}
    assert documented
    assert documented | undocumented <= {(method, path.replace(":path}", "}")) for method, path in found}
    return found


def paths(operations):
    return [(method, re.sub(r"{[^}]+}", "1", path)) for method, path in sorted(operations)] + list(BEYOND_ROUTES)


def refusals(client) -> dict[str, float]:
    text = client.get("/metrics", headers=bearer(Scope.READ)).text
    return {
        sample.labels["reason"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "llm_platform_refused_requests_total"
    }


def assert_refused(response, status: int) -> None:
    assert response.status_code == status, response.request.url
    assert response.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
    if response.request.method != "HEAD":
        error = response.json()["error"]
        said = error["message"] if response.request.url.path.startswith(OPENAIS) else error
        assert "key" in said


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "missing"),
        ({"Authorization": "Bearer "}, "missing"),
        ({"Authorization": "Basic dTpw"}, "missing"),
        ({"Authorization": MADE[Scope.ADMIN][0]}, "missing"),
        ({"X-API-Key": " "}, "missing"),
        ({"Authorization": "Bearer none"}, "unknown"),
        ({"X-API-Key": "none"}, "unknown"),
        ({"Authorization": f"Bearer {MADE[Scope.ADMIN][1].digest}"}, "unknown"),
        ({"Authorization": f"Bearer {MADE[Scope.ADMIN][0]}x"}, "unknown"),
    ],
)
def test_no_endpoint_answers_without_a_key(client, operations, headers, reason):
    before, asked = refusals(client), paths(operations)
    for method, path in asked:
        assert_refused(client.request(method, path, headers=headers), 401)
    assert refusals(client) == before | {reason: before[reason] + len(asked)}


def test_no_endpoint_answers_a_scope_that_is_too_small(client, operations):
    before, asked = refusals(client), 0
    for method, path in paths(operations):
        for scope in Scope:
            if not scope.covers(needed_scope(method, path)):
                assert_refused(client.request(method, path, headers=bearer(scope)), 403)
                asked += 1
    assert asked
    assert refusals(client) == before | {"scope": before["scope"] + asked}


def test_what_needs_more_or_less_than_its_method_says(operations):
    """A new endpoint is to be thought about here, as far as it is neither a GET nor a plain change."""
    posts = {path for method, path in operations if method == "POST"}
    assert {path for path in posts if needed_scope("POST", path) is Scope.READ} == {
        "/api/models/{model_id}/generate",
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/responses/input_tokens",
        "/v1/responses/{response_id}/cancel",
        "/v1/conversations",
        "/v1/conversations/{conversation_id}",
        "/v1/conversations/{conversation_id}/items",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
    }
    admins = {(method, path) for method, path in operations if needed_scope(method, path) is Scope.ADMIN}
    assert admins == {
        ("POST", "/api/models/{model_id}/promote"),
        ("DELETE", "/api/models/{model_id}"),
        ("DELETE", "/api/datasets/{dataset_id}"),
        ("DELETE", "/api/training/{job_id}"),
        ("DELETE", "/api/evaluations/{evaluation_id}"),
        ("DELETE", "/v1/models/{name:path}"),
        ("DELETE", "/v1/files/{file_id}"),
        ("DELETE", "/v1/webhook_endpoints/{endpoint_id}"),
        ("GET", "/api/keys"),
        ("POST", "/api/keys"),
        ("DELETE", "/api/keys/{key_id}"),
        ("GET", "/api/audit"),
    }
    for method, path in operations:
        reads = needed_scope(method, path) is Scope.READ or path in GUARDING
        assert reads or method in ("POST", "DELETE"), (method, path)


def test_a_key_opens_what_its_scope_says(client):
    read, write, admin = (bearer(scope) for scope in Scope)
    assert client.get("/api/docs", headers=read).status_code == 200
    assert client.get("/api/health", headers={"Authorization": f"bearer  {MADE[Scope.READ][0]}"}).status_code == 200
    assert client.get("/api/health", headers={"x-api-key": MADE[Scope.READ][0]}).status_code == 200
    assert client.get("/nothing/here", headers=read).status_code == 404
    foreign = {"Host": "evil.example"}
    assert client.get("/api/health", headers=foreign).status_code == 401
    assert client.get("/api/health", headers=foreign | read).status_code == 400
    body = {"name": "Keyed", "base_model": "tiny-llama"}
    refused = client.post("/api/models", json=body, headers=read)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert refused.json()["error"] == "The key a-read-key has the scope read, but this needs write."
    assert refused.json()["details"] == {"scope": "read", "needed": "write"}
    created = client.post("/api/models", json=body, headers=write)
    assert created.status_code == 201
    path = f"/api/models/{created.json()['id']}"
    assert client.post(f"{path}/generate", json={"prompt": "x"}, headers=read).status_code == 503  # no engine here
    assert client.delete(path, headers=write).status_code == 403
    assert client.delete(path, headers=admin).status_code == 200


def test_a_presented_key_is_not_repeated(client):
    answer = client.get("/api/health", headers={"Authorization": "Bearer llmp_of-another-platform"})
    assert "llmp_of-another-platform" not in answer.text


def test_no_websocket_gets_past_the_guard(client):
    with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect("/api/anything"):
        pass
    assert caught.value.code == 1008


def test_openais_sdk_raises_its_own_errors(client):
    def sdk(key):
        return openai.OpenAI(base_url="http://localhost/v1", api_key=key, max_retries=0, http_client=client)

    with pytest.raises(openai.AuthenticationError) as unknown:
        sdk("none").models.list()
    assert (unknown.value.type, unknown.value.code) == ("authentication_error", "unauthorized")
    reader = sdk(MADE[Scope.READ][0])
    assert [model.id for model in reader.models.list()]
    with pytest.raises(openai.PermissionDeniedError) as forbidden:
        reader.files.create(file=b"{}", purpose="fine-tune")
    assert (forbidden.value.type, forbidden.value.code) == ("permission_error", "forbidden")


def test_the_schema_documents_keys_only_where_they_are_on(client, settings):
    schema = client.get("/api/openapi.json", headers=bearer(Scope.READ)).json()
    schemes = schema["components"]["securitySchemes"]
    (name,) = schemes
    assert schemes[name] == {"type": "http", "scheme": "bearer"}
    for path, methods in schema["paths"].items():
        shape = "OpenAIErrorResponse" if path.startswith(OPENAIS) else "ErrorResponse"
        shape = "AnthropicErrorResponse" if path.startswith("/v1/messages") else shape
        for operation in methods.values():
            assert operation["security"] == [{name: []}]
            for status in ("401", "403"):
                content = operation["responses"][status]["content"]["application/json"]["schema"]
                assert content == {"$ref": f"#/components/schemas/{shape}"}
    app = create_app(settings.model_copy(update={"api_keys": None}))
    with TestClient(app, base_url="http://localhost") as open_client:
        schema = open_client.get("/api/openapi.json").json()
        assert open_client.get("/api/health").status_code == 200
    assert "securitySchemes" not in schema["components"]
    assert "401" not in schema["paths"]["/api/health"]["get"]["responses"]
