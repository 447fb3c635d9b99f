"""The engine's process over real HTTP."""

import json
import time

import httpx
import pytest
from fastapi.testclient import TestClient
from transformers import AutoTokenizer

from api.engine_server.schemas import AnswerForm
from api.engine_server.server import create_app
from configs.settings import Settings
from tests.api.engine_server.conftest import EngineProcess
from tests.tasks.inference.conftest import greedy, reference

PROMPT = "The quick brown fox"


def events(response: httpx.Response):
    return [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]


def wait_idle(http, seconds=5.0) -> float:
    """Return the seconds until nothing runs."""
    begun = time.monotonic()
    while http.get("/health").json()["running"]:
        assert time.monotonic() < begun + seconds
        time.sleep(0.01)
    return time.monotonic() - begun


@pytest.fixture
def body(tiny_llama_dir):
    return {"weights": str(tiny_llama_dir), "prompt": PROMPT, "temperature": 0, "max_length": 40}


def test_the_port_opens_before_torch_is_imported(engine_process):
    assert engine_process.first_health["status"] == "loading"


@pytest.mark.parametrize("adapter", [None, "1"])
def test_the_answer_is_the_prompt_and_what_transformers_would_say(http, body, tiny_llama_dir, data_dir, adapter):
    folder = adapter and data_dir / "adapters" / adapter
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    ids = tokenizer(PROMPT)["input_ids"]
    expected = reference(greedy(tiny_llama_dir, folder, 40 - len(ids), eos_token_ids=[tokenizer.eos_token_id]))
    answer = http.post("/generate", json=body | ({"adapter": str(folder)} if folder else {})).json()
    assert answer["text"] == PROMPT + answer["continuation"]
    assert answer["continuation"] == tokenizer.decode(expected, skip_special_tokens=True).rstrip("\ufffd")
    assert answer["prompt_tokens"] == len(ids)
    assert answer["generated_tokens"] == 40 - len(ids)
    assert answer["finish_reason"] == "length"
    assert 0 < answer["seconds"] < 30


def test_the_stream_joins_to_the_answer(http, body):
    body |= {"temperature": 1.0, "seed": 5, "max_new_tokens": 60}
    whole = http.post("/generate", json=body).json()
    with http.stream("POST", "/generate", json=body | {"stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        pieces = events(response)
    begun = {"running": True, "form": AnswerForm().model_dump(), "prompt_tokens": whole["prompt_tokens"]}
    assert pieces.pop(0) == begun
    assert "".join(piece["text"] for piece in pieces[:-1]) == whole["continuation"]
    assert len(pieces) > 2
    end = pieces[-1]
    assert end.pop("done") is True
    counts = {"prompt_tokens", "generated_tokens", "reasoning_tokens"}
    assert end.keys() == counts | {"finish_reason", "seconds", "stop_string"}
    assert {**end, "seconds": 0} == {key: whole[key] for key in end} | {"seconds": 0}


def test_a_stop_string_ends_the_answer(http, body):
    whole = http.post("/generate", json=body).json()["continuation"]
    stop = whole[10:13]
    answer = http.post("/generate", json=body | {"stop": [stop, "never there"]}).json()
    assert answer["continuation"] == whole[: whole.index(stop)]
    assert answer["finish_reason"] == "stop"
    with http.stream("POST", "/generate", json=body | {"stop": [stop], "stream": True}) as response:
        pieces = events(response)
    assert "".join(piece.get("text", "") for piece in pieces) == answer["continuation"]
    assert pieces[-1]["finish_reason"] == "stop"


def test_an_empty_prompt_begins_a_text(http, body):
    answer = http.post("/generate", json=body | {"prompt": "", "temperature": 1, "max_length": 5, "seed": 1}).json()
    assert (answer["prompt_tokens"], answer["generated_tokens"]) == (1, 4)
    assert answer["text"] == answer["continuation"]


def test_without_a_limit_an_answer_has_all_that_the_context_leaves(http, body, tiny_gpt2_dir):
    free = body | {"max_length": None, "weights": str(tiny_gpt2_dir)}
    answer = http.post("/generate", json=free).json()
    assert (answer["prompt_tokens"] + answer["generated_tokens"], answer["finish_reason"]) == (128, "length")
    response = http.post("/generate", json=free | {"prompt": "word " * 200})
    assert (response.status_code, response.json()["code"]) == (422, "prompt_too_long")
    assert "the model's context allows 128" in response.json()["error"]


def test_prompts_without_room_get_both_numbers(http, body, tiny_gpt2_dir):
    long = "word " * 200
    for change, numbers in [
        ({"max_length": 3}, "3"),
        ({"prompt": long, "weights": str(tiny_gpt2_dir)}, "128"),
        ({"prompt": long, "weights": str(tiny_gpt2_dir), "max_new_tokens": 1}, "128"),
    ]:
        response = http.post("/generate", json=body | change)
        assert response.status_code == 422
        assert response.json()["code"] == "prompt_too_long"
        tokens = AutoTokenizer.from_pretrained(tiny_gpt2_dir)((body | change)["prompt"])["input_ids"]
        assert str(len(tokens)) in response.json()["error"]
        assert numbers in response.json()["error"]


def test_paths_outside_the_models_are_refused(http, body, tiny_models_dir, tmp_path):
    (tiny_models_dir / "link-out").symlink_to(tmp_path)
    for name in [
        "/etc",
        str(tmp_path),
        "tiny-llama",
        f"{tiny_models_dir}/../x",
        str(tiny_models_dir),
        f"{tiny_models_dir}-2/x",
        "/\0",
    ]:
        for field in ("weights", "adapter"):
            response = http.post("/generate", json=body | {field: name})
            assert response.status_code == 422, name
            assert response.json()["code"] == "invalid"


@pytest.mark.parametrize("stream", [False, True])
def test_weights_that_are_not_there_are_a_503(http, body, tiny_models_dir, data_dir, stream):
    for change in ({"weights": f"{tiny_models_dir}/absent"}, {"adapter": f"{data_dir}/adapters/99"}):
        response = http.post("/generate", json=body | change | {"stream": stream})
        assert response.status_code == 503
        assert response.json()["code"] == "weights"
        assert "missing" in response.json()["error"] or "not a folder" in response.json()["error"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"tempo": 1}, "tempo"),
        ({"prompt": None}, "prompt"),
    ],
)
def test_wrong_fields_are_named(http, body, change, named):
    response = http.post("/generate", json=body | change)
    assert (response.status_code, response.json()["code"]) == (422, "invalid")
    assert named in response.json()["error"]


def test_every_error_has_the_same_shape(http):
    for response in (http.get("/nowhere"), http.get("/generate"), http.post("/generate", content=b"{")):
        assert response.status_code in (404, 405, 422)
        assert response.json().keys() == {"error", "code"}


def test_a_foreign_host_is_refused(http):
    assert http.get("/health", headers={"Host": "example.com"}).status_code == 400


@pytest.fixture
def slow_body(body, endless_llama_dir):
    """A request that the engine works on for longer than any of these tests."""
    return body | {"weights": str(endless_llama_dir), "max_length": None, "max_new_tokens": 100_000}


def test_a_client_that_disconnects_frees_its_slot(http, slow_body, engine_process):
    with http.stream("POST", "/generate", json=slow_body | {"stream": True}) as response:
        next(response.iter_lines())
    # The generation itself would outlast any test.
    wait_idle(http, seconds=30)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{engine_process.url}/generate", json=slow_body, timeout=0.5, trust_env=False)
    wait_idle(http, seconds=30)


def test_health_names_the_loaded_models(http, body, tiny_llama_dir):
    http.post("/generate", json=body)
    health = http.get("/health").json()
    assert health["status"] == "ok"
    (model,) = [model for model in health["models"] if model["weights"] == str(tiny_llama_dir)]
    assert model["loaded"] is True
    assert 0 < model["bytes"] <= health["bytes"] <= health["budget_bytes"]


def test_sigterm_ends_it_cleanly_and_does_not_wait_for_answers(tiny_models_dir, data_dir, slow_body):
    engine = EngineProcess(tiny_models_dir, data_dir)
    status, seconds = engine.stop()
    assert (status, seconds < 10) == (0, True)
    engine = EngineProcess(tiny_models_dir, data_dir)
    with (
        httpx.Client(base_url=engine.url, timeout=60, trust_env=False) as client,
        client.stream("POST", "/generate", json=slow_body | {"stream": True}) as response,
    ):
        next(response.iter_lines())
        status, seconds = engine.stop()
    assert (status, seconds < 10) == (0, True)


def test_a_device_that_is_not_there_is_reported(body):
    with TestClient(create_app(Settings(device="cuda:99")), base_url="http://localhost") as client:
        response = client.post("/generate", json=body)
        assert response.status_code == 500
        assert "cuda:99" in response.json()["error"]
        assert client.get("/health").json()["status"] == "failed"
