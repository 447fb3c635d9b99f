"""One request can't take the machine: what it asks for is bounded, and so are the shapes that its JSON may have."""

import json

import pytest

from api.json_guard import MOST_DIGITS, MOST_KEYS, MOST_LEVELS, objection
from tests.api.test_bad_input import JSON, assert_error

PATHS = ("/api/models", "/api/training", "/api/datasets", "/api/models/1/generate", "/api/models/1/evaluate")
OPENAI_PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/fine_tuning/jobs", "/v1/files")
DEEP = 49_000
SHAPES = {
    "lists": "[" * DEEP,
    "closed lists": "[" * DEEP + "]" * DEEP,
    "objects": '{"a":' * 15_000 + "1" + "}" * 15_000,
    "in a field": '{"metadata":' + "[" * 5_000 + "]" * 5_000 + "}",
    "just too deep": "[" * (MOST_LEVELS + 1) + "]" * (MOST_LEVELS + 1),
    "keys": "{" + ",".join(f'"{key}":1' for key in range(9_000)) + "}",
    "a long integer": '{"seed": ' + "9" * 5_000 + "}",
    "a long fraction": '{"temperature": 0.' + "3" * 5_000 + "}",
}


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}], ids=["", "once only"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("path", PATHS)
def test_shapes_that_no_client_sends_are_refused_in_a_sentence(client, path, shape, headers):
    response = client.post(path, content=SHAPES[shape], headers=JSON | headers)
    assert response.status_code in {400, 422}, response.text
    assert len(response.json()["error"]) < 5_000


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("path", OPENAI_PATHS)
def test_shapes_that_no_client_sends_are_refused_in_openais_shape(client, path, shape):
    response = client.post(path, content=SHAPES[shape], headers=JSON)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (SHAPES["lists"], f"at most {MOST_LEVELS}"),
        (SHAPES["objects"], f"at most {MOST_LEVELS}"),
        ("{" + '"a":1,' * MOST_KEYS + '"a":1}', f"holds {MOST_KEYS + 1} keys"),
        (SHAPES["a long integer"], f"{MOST_DIGITS} digits"),
        ("[]".encode("utf-16").decode("latin-1"), "UTF-8"),
    ],
)
def test_the_sentence_names_the_limit(body, words):
    assert words in objection(body.encode("latin-1")).message


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "[" * 100_000},
        {"prompt": '{"a": ' * 30_000 + '\\"' * 10},
        {"prompt": "1" * 10_000},
        {"a": [[[1]]] * 10_000},
        {"messages": [{"role": "user", "content": "a: b"}] * 5_000},
    ],
)
def test_text_that_looks_so_is_text(value):
    assert objection(json.dumps(value).encode()) is None


def test_as_deep_as_allowed_is_read(client):
    nested = "[" * (MOST_LEVELS - 1) + "]" * (MOST_LEVELS - 1)
    response = client.post("/api/models", content='{"name": ' + nested + "}", headers=JSON)
    assert_error(response, 422, "name", "base_model is required")


def test_a_body_that_is_no_form_is_read_into_memory_up_to_the_limit_of_json(client, settings):
    """Though the same path takes uploads of gigabytes."""
    for path in ("/api/datasets", "/v1/files"):
        response = client.post(path, content=b" " * (settings.max_request_bytes + 1), headers=JSON)
        assert response.status_code == 413, response.text


def test_a_wrong_list_is_wrong_at_its_first_item(client):
    body = {"model": "tiny-llama", "prompt": [None] * 15_000}
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert len(response.text) < 2_000


def test_a_body_with_many_wrong_fields_names_some_and_counts_the_rest(client):
    response = client.post("/api/models", json={f"field{number}": 1 for number in range(3_000)})
    assert_error(response, 422, "is not a known field", "further problems")
    assert len(response.text) < 5_000


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/completions", {"prompt": ["a"] * 9, "n": 128}, ("n is 128", "1152 answers", "at most 1024")),
        ("/v1/completions", {"prompt": ["a"] * 20_000}, ("prompt is 20000 prompts", "at most 1024")),
        ("/v1/completions", {"prompt": [[1]] * 2_000, "n": 2}, ("n is 2", "4000 answers", "at most 1024")),
        (
            "/v1/completions",
            {"prompt": ["a"] * 5, "max_tokens": 1_048_576},
            ("max_tokens is 1048576", "at most 4194304"),
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "Hi"}], "n": 128, "max_tokens": 100_000},
            ("max_tokens is 100000", "12800000 tokens", "at most 4194304"),
        ),
    ],
)
def test_prompts_times_answers_times_tokens_are_bounded(client, tiny_model, path, body, words):
    response = client.post(path, json={"model": "tiny-llama"} | body)
    assert response.status_code == 400, response.text
    message = response.json()["error"]["message"]
    for word in words:
        assert word in message, message


def test_many_answers_make_nothing_before_they_are_refused(client, tiny_model):
    """Prompts of 1.6 MB with n=128 were 51 million requests in memory."""
    import tracemalloc

    body = json.dumps({"model": "tiny-llama", "prompt": ["a"] * 19_000, "n": 128})
    tracemalloc.start()
    try:
        response = client.post("/v1/completions", content=body, headers=JSON)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert response.status_code == 400
    assert peak < 50_000_000


@pytest.mark.parametrize("schema", ['{"const": NaN}', '{"maximum": 1e999}', '{"const": "\\ud800"}', '{"\\udfff": 1}'])
def test_a_schema_that_can_not_be_passed_on_is_refused(client, tiny_model, schema):
    content = (
        '{"model": "tiny-llama", "messages": [{"role": "user", "content": "Hi"}], "response_format": {"type": '
        f'"json_schema", "json_schema": {{"name": "x", "schema": {schema}}}}}}}'
    )
    response = client.post("/v1/chat/completions", content=content, headers=JSON)
    assert response.status_code == 400, response.text
    assert "json_schema" in response.json()["error"]["message"]


def test_an_idempotency_key_beside_a_body_that_is_no_json(client):
    headers = {"Idempotency-Key": "k", "Content-Type": "text/plain"}
    response = client.post("/api/models", content=b"no json", headers=headers)
    assert response.status_code == 415
