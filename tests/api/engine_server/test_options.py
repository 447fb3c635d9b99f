"""What a request may say of the answer's tokens, over the engine's HTTP."""

import pytest
from transformers import AutoTokenizer


@pytest.fixture
def body(tiny_llama_dir):
    return {"weights": str(tiny_llama_dir), "prompt": "The quick brown fox", "temperature": 0, "max_new_tokens": 12}


def test_options_reach_the_engine(http, body, tiny_llama_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    plain = http.post("/generate", json=body).json()["continuation"]
    forced = http.post("/generate", json=body | {"logit_bias": {"70": 100}}).json()
    assert forced["continuation"] == tokenizer.decode([70]) * 12
    for change in ({"frequency_penalty": 2}, {"presence_penalty": 2}):
        answer = http.post("/generate", json=body | {"logit_bias": {"70": 1}} | change).json()["continuation"]
        assert answer not in (
            plain,
            http.post("/generate", json=body | {"logit_bias": {"70": 1}}).json()["continuation"],
        )
    stopped = http.post("/generate", json=body | {"logit_bias": {"70": 100}, "stop_token_ids": [70]}).json()
    assert (stopped["continuation"], stopped["finish_reason"]) == ("", "stop")
    late = http.post("/generate", json=body | {"stop_token_ids": [70], "min_new_tokens": 5, "logit_bias": {"70": 100}})
    assert (late.json()["generated_tokens"], late.json()["finish_reason"]) == (5, "stop")
    end = {"logit_bias": {str(tokenizer.eos_token_id): 100}}
    assert http.post("/generate", json=body | end).json()["generated_tokens"] == 0
    assert http.post("/generate", json=body | end | {"ignore_eos": True}).json()["generated_tokens"] == 12


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"logit_bias": {"5000000": 1}}, "logit_bias holds the id 5000000"),
        ({"logit_bias": {"7": 101}}, "logit_bias"),
        ({"logit_bias": {"seven": 1}}, "logit_bias"),
        ({"stop_token_ids": [-1]}, "stop_token_ids holds the id -1"),
        ({"min_new_tokens": 13}, "min_new_tokens is 13"),
    ],
)
def test_options_without_meaning_are_named(http, body, change, named):
    response = http.post("/generate", json=body | change)
    assert (response.status_code, response.json()["code"]) == (422, "invalid")
    assert named in response.json()["error"]
