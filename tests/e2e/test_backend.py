"""Another OpenAI-compatible server in the engine's place: here a second platform, spoken to over HTTP."""

import json

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from configs.settings import Settings
from tests.e2e.platform_process import free_ports

PROMPT = "What does the Python function"


@pytest.fixture(scope="module")
def client(platform, tiny_model, models_dir, tmp_path_factory):
    """A platform's API without an engine of its own."""
    prefect_port, mlflow_port, engine_port = free_ports(3)
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("front"),
        local_models_dir=models_dir,
        allow_hub=False,
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
        engine_port=engine_port,
        backend_url=f"http://127.0.0.1:{platform.ports['api']}/v1",
    )
    with TestClient(create_app(settings), base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def model_id(client):
    return client.post("/api/models", json={"name": "Tiny", "base_model": "tiny-llama"}).json()["id"]


def test_the_documented_endpoint_answers_as_the_backend_does(platform, client, model_id, tiny_model):
    body = {"prompt": PROMPT, "temperature": 0, "max_length": 20}
    behind = platform.http.post(f"/models/{tiny_model}/generate", json=body).json()
    answer = client.post(f"/api/models/{model_id}/generate", json=body).json()
    for name in ("text", "finish_reason", "prompt_tokens", "generated_tokens"):
        assert answer[name] == behind[name], name


def test_streams_seeds_stops_schemas_and_logprobs_pass_through(platform, client, model_id):
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}
    chat = {
        "model": "tiny-llama",
        "messages": [{"role": "user", "content": "Hello"}],
        "seed": 4,
        "max_tokens": 30,
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
    }
    front = client.post("/v1/chat/completions", json=chat).json()
    behind = platform.http.post(f"http://127.0.0.1:{platform.ports['api']}/v1/chat/completions", json=chat).json()
    assert front["choices"] == behind["choices"]
    assert front["usage"] == behind["usage"]
    assert json.loads(front["choices"][0]["message"]["content"]) == {"a": 1}
    with client.stream("POST", "/v1/chat/completions", json=chat | {"stream": True}) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    deltas = [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines[:-1]]
    assert "".join(deltas) == front["choices"][0]["message"]["content"]
    text = {"model": "tiny-llama", "prompt": PROMPT, "temperature": 0, "logprobs": 1, "stop": ["zzz"], "max_tokens": 5}
    shown = client.post("/v1/completions", json=text).json()["choices"][0]
    assert "".join(shown["logprobs"]["tokens"]) == shown["text"]


def test_embeddings_are_the_backends(platform, client, model_id):
    body = {"model": "tiny-llama", "input": [PROMPT, "fox"], "dimensions": 8}
    front = client.post("/v1/embeddings", json=body).json()
    behind = platform.http.post(f"http://127.0.0.1:{platform.ports['api']}/v1/embeddings", json=body).json()
    for ours, theirs in zip(front["data"], behind["data"], strict=True):
        assert ours["embedding"] == pytest.approx(theirs["embedding"], abs=1e-6)
    assert front["usage"] == behind["usage"]
    refused = client.post("/v1/embeddings", json={"model": "tiny-llama", "input": "word " * 2000})
    assert refused.status_code == 400
    assert "256" in refused.json()["error"]["message"]


def test_what_the_backend_refuses_keeps_its_sense(client, model_id):
    too_long = client.post(f"/api/models/{model_id}/generate", json={"prompt": PROMPT, "max_length": 2})
    assert (too_long.status_code, too_long.json()["code"]) == (422, "prompt_too_long")
    beyond = {"prompt": "word " * 2000, "max_new_tokens": 5}
    refused = client.post(f"/api/models/{model_id}/generate", json=beyond)
    assert refused.status_code == 422
    assert "256" in refused.json()["error"]


@pytest.mark.parametrize(
    ("weights", "said"),
    [(None, "--enable-lora"), ("4567", "not 4567, which the adapter is made for")],
    ids=["no such endpoint", "another base"],
)
def test_an_adapter_that_the_backend_can_not_load_is_said(client, weights, said):
    """vLLM loads adapters as it runs; this backend has no such endpoint, and nothing that was trained as a whole."""
    from registry.database import Database
    from registry.repositories.models import ModelRepository
    from registry.tables import Model

    database = Database(client.app.state.platform.settings.platform_database_url)
    with database.transaction() as session:
        tuned = Model(name="Tuned", base_model="tiny-llama", status="AVAILABLE", adapter="0123", weights=weights)
        model_id = ModelRepository(session).add(tuned).id
    database.close()
    answer = client.post(f"/api/models/{model_id}/generate", json={"prompt": PROMPT, "max_new_tokens": 2})
    assert answer.status_code == 503
    assert said in answer.json()["error"]


def test_a_backend_that_is_away_is_a_service_that_is_down(models_dir, tmp_path):
    settings = Settings(
        data_dir=tmp_path, local_models_dir=models_dir, allow_hub=False, backend_url="http://127.0.0.1:9/v1"
    )
    with TestClient(create_app(settings), base_url="http://localhost", raise_server_exceptions=False) as client:
        model_id = client.post("/api/models", json={"name": "Tiny", "base_model": "tiny-llama"}).json()["id"]
        answer = client.post(f"/api/models/{model_id}/generate", json={"prompt": "Hello", "max_new_tokens": 2})
    assert (answer.status_code, answer.json()["code"]) == (503, "part_down")
    assert "127.0.0.1:9" in answer.json()["error"]
