"""Bad input gets a status and a sentence: what was wrong, its value, what is accepted."""

import sys

import pytest

JSON = {"Content-Type": "application/json"}


def assert_error(response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) <= {"error", "code", "details"}
    for word in words:
        assert word in body["error"], body["error"]


@pytest.mark.parametrize("text", ["{", '{"name": }', "nonsense", '{"name": "a"'])
def test_malformed_json(client, text):
    assert_error(client.post("/api/models", content=text, headers=JSON), 400, "JSON")


@pytest.mark.parametrize("text", ["[]", '"text"', "3", "null", ""])
def test_json_that_is_no_object(client, text):
    assert_error(client.post("/api/models", content=text, headers=JSON), 422, "JSON object")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("epochs", -3, ("epochs is -3", "greater than or equal to 1")),
        ("epochs", "3", ("epochs is '3'", "integer")),
        ("epochs", 2.5, ("epochs is 2.5", "integer")),
        ("epochs", True, ("epochs is True", "integer")),
        ("lora_r", 0, ("lora_r is 0", "greater than or equal to 1")),
        ("learning_rate", 0, ("learning_rate is 0", "greater than 0")),
        ("lora_dropout", 1.0, ("lora_dropout is 1", "less than 1")),
        ("batch_size", 10**30, ("batch_size", "less than or equal to 4096")),
        ("lr_scheduler", "exponential", ("lr_scheduler is 'exponential'", "'linear', 'cosine' or 'constant'")),
        ("target_modules", [], ("target_modules", "at least 1 item")),
        ("job_name", "a\0b", ("job_name", "match pattern")),
        ("job_name", "\x85\u3000", ("job_name", "at least 1 character")),
        ("job_name", "  ", ("job_name", "at least 1 character")),
        ("learnig_rate", 0.1, ("learnig_rate is not a known field",)),
        ("model_id", 2**40, ("model_id is 1099511627776",)),
        ("method", "adalora", ("method is 'adalora'", "'lora', 'rslora', 'dora', 'full' or 'qlora'")),
    ],
)
def test_wrong_hyperparameters_are_named_with_their_value(client, tiny_model, field, value, words):
    body = {"model_id": tiny_model["id"], "job_name": "job", field: value}
    assert_error(client.post("/api/training", json=body), 422, *words)


@pytest.mark.parametrize(
    ("field", "value"), [("lora_r", 8), ("lora_alpha", 16), ("lora_dropout", 0.05), ("target_modules", None)]
)
def test_what_means_nothing_to_the_method_is_refused_even_as_its_default(client, tiny_model, field, value):
    body = {"model_id": tiny_model["id"], "job_name": "job", "method": "full", field: value}
    assert_error(client.post("/api/training", json=body), 422, "method 'full'", f"leave out {field} ({value!r})")


def test_a_method_that_needs_what_is_not_installed(client, tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    body = {"model_id": tiny_model["id"], "job_name": "job", "method": "qlora"}
    assert_error(client.post("/api/training", json=body), 422, "needs the package bitsandbytes", "lora, rslora, dora")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(client, tiny_model, number):
    text = f'{{"model_id": {tiny_model["id"]}, "job_name": "job", "learning_rate": {number}}}'
    assert_error(client.post("/api/training", content=text, headers=JSON), 422, "learning_rate")


@pytest.mark.parametrize("field", ["model_id", "job_name"])
def test_missing_fields_are_named(client, tiny_model, field):
    body = {"model_id": tiny_model["id"], "job_name": "job"}
    del body[field]
    assert_error(client.post("/api/training", json=body), 422, f"{field} is required")


def test_every_wrong_field_is_named(client):
    body = {"model_id": 1, "job_name": "job", "epochs": 0, "lora_r": -1}
    assert_error(client.post("/api/training", json=body), 422, "epochs is 0", "lora_r is -1")


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1), ("top_p", 0), ("top_p", 1.5), ("top_k", -1), ("max_length", 0), ("prompt", ""), ("seed", -1)],
)
def test_wrong_sampling_settings(client, tiny_model, field, value):
    response = client.post(f"/api/models/{tiny_model['id']}/generate", json={"prompt": "Hi", field: value})
    assert_error(response, 422, f"{field} is ")


def test_both_length_limits(client, tiny_model):
    body = {"prompt": "Hi", "max_length": 5, "max_new_tokens": 5}
    assert_error(client.post(f"/api/models/{tiny_model['id']}/generate", json=body), 422, "exclude each other")


def test_half_a_surrogate_pair(client, tiny_model):
    path = f"/api/models/{tiny_model['id']}/generate"
    assert_error(client.post(path, content='{"prompt": "\\ud800"}', headers=JSON), 422, "prompt")


def test_huge_prompts_are_refused_whether_their_length_is_declared_or_not(client, tiny_model):
    path = f"/api/models/{tiny_model['id']}/generate"
    text = '{"prompt": "' + "x" * 10_000_000 + '"}'
    assert_error(client.post(path, content=text, headers=JSON), 413, "100000 bytes")
    chunks = (text[start : start + 65_536].encode() for start in range(0, len(text), 65_536))
    assert_error(client.post(path, content=chunks, headers=JSON), 413, "100000 bytes")


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "a/b/c",
        "https://host/model",
        "model.bin",
        "org/model.pt",
        "..",
        "a\\b",
        "a b",
        "~/x",
        "",
    ],
)
def test_base_models_that_lead_elsewhere(client, name):
    assert_error(client.post("/api/models", json={"name": "x", "base_model": name}), 422, "base_model")


def test_weights_that_do_not_exist_make_an_unavailable_model(client):
    response = client.post("/api/models", json={"name": "x", "base_model": "no-such-model"})
    assert response.status_code == 201
    created = response.json()
    assert created["status"] == "UNAVAILABLE"
    assert "no-such-model" in created["status_reason"]
    generate = client.post(f"/api/models/{created['id']}/generate", json={"prompt": "Hi"})
    assert_error(generate, 409, "UNAVAILABLE", "no-such-model")
    train = client.post("/api/training", json={"model_id": created["id"], "job_name": "job"})
    assert_error(train, 409, "UNAVAILABLE")


def test_size_is_computed_from_the_weights(client, tiny_model):
    model = client.get(f"/api/models/{tiny_model['id']}").json()
    assert (model["status"], model["model_size"], model["parameters"]) == ("AVAILABLE", "31K", None)


@pytest.mark.parametrize(
    "path",
    ["/api/models/99", "/api/models/abc", "/api/models/0", "/api/models/-1", "/api/training/7", "/api/evaluations/7"],
)
def test_unknown_ids(client, path):
    assert_error(client.get(path), 404)


@pytest.mark.parametrize("action", ["/api/training/77/pause", "/api/training/77/resume", "/api/models/77/generate"])
def test_unknown_ids_of_actions(client, action):
    assert_error(client.post(action, json={"prompt": "Hi"}), 404, "77")


def test_unknown_ids_in_bodies(client, tiny_model):
    assert_error(client.post("/api/training", json={"model_id": 77, "job_name": "job"}), 404, "77")
    body = {"model_id": tiny_model["id"], "job_name": "job", "dataset_id": 77}
    assert_error(client.post("/api/training", json=body), 404, "data set", "77")


@pytest.mark.parametrize("path", ["/", "/api", "/api/nothing", "/api/models/", "/docs", "/api/models/1/nothing"])
def test_unknown_paths(client, path):
    assert_error(client.get(path), 404, path)


def test_methods_that_a_path_does_not_have(client):
    response = client.delete("/api/models")
    assert_error(response, 405, "DELETE", "GET", "POST")
    assert response.headers["Allow"] == "GET, POST"


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "after=-1"])
def test_wrong_paging(client, query):
    assert_error(client.get(f"/api/models?{query}"), 422, query.partition("=")[0])


def test_foreign_hosts(client):
    for host in ("evil.example", "localhost.evil.example", ""):
        assert_error(client.get("/api/health", headers={"Host": host}), 400, "Host")
    for host in ("localhost:5000", "127.0.0.1", "[::1]:5000"):
        assert client.get("/api/health", headers={"Host": host}).status_code == 200


def test_errors_never_show_a_trace(client, tiny_model, settings):
    from registry.database import Database

    database = Database(settings.platform_database_url)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE evaluations RENAME TO hidden")
    try:
        response = client.get("/api/evaluations")
    finally:
        with database.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE hidden RENAME TO evaluations")
        database.close()
    assert_error(response, 503, "database")
    assert "Traceback" not in response.text
