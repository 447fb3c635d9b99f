"""Tokens of texts and conversations, and back; and the small endpoints that other servers have."""

import json

import pytest
from transformers import AutoTokenizer

from tests.tiny_models import CHAT_TEMPLATE

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Wer bist du? 🦊"}]


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_dir):
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


def asked(client, path, **fields):
    answer = client.post(path, json={"model": "tiny-llama"} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("text", ["The quick brown fox", "é🦊", "", "a<|im_end|>"])
@pytest.mark.parametrize("special", [True, False])
def test_a_text_there_and_back(client, tiny_model, tokenizer, text, special):
    found = asked(client, "/tokenize", prompt=text, add_special_tokens=special, return_token_strs=True)
    ids = tokenizer(text, add_special_tokens=special).input_ids
    assert (found["tokens"], found["count"]) == (ids, len(ids))
    assert found["token_strs"] == tokenizer.convert_ids_to_tokens(ids)
    assert found["max_model_len"] == 256
    assert asked(client, "/detokenize", tokens=ids) == {"prompt": tokenizer.decode(ids)}


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"add_generation_prompt": False},
        {"add_generation_prompt": False, "continue_final_message": True},
    ],
)
def test_a_conversation_is_what_transformers_renders(client, tiny_model, tokenizer, how):
    messages = [*MESSAGES, {"role": "assistant", "content": "A fox"}] if how else MESSAGES
    expected = tokenizer.apply_chat_template(messages, return_dict=False, **({"add_generation_prompt": True} | how))
    assert asked(client, "/tokenize", messages=messages, **how)["tokens"] == expected
    body = {"model": "tiny-llama", "messages": messages, "max_tokens": 4, "temperature": 0} | how
    answer = client.post("/v1/chat/completions", json=body).json()
    plain = client.post(
        "/v1/completions", json={"model": "tiny-llama", "prompt": expected, "max_tokens": 4, "temperature": 0}
    ).json()
    assert answer["choices"][0]["message"]["content"] == plain["choices"][0]["text"]


def test_without_a_limit_an_answer_has_the_rest_of_the_context(client, tiny_model):
    answer = client.post("/v1/chat/completions", json={"model": "tiny-llama", "messages": MESSAGES, "seed": 1}).json()
    usage, reason = answer["usage"], answer["choices"][0]["finish_reason"]
    assert reason == "stop" or usage["total_tokens"] == 256


@pytest.mark.parametrize(
    ("path", "fields", "said"),
    [
        ("/tokenize", {}, "exactly one of prompt and messages"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "exactly one"),
        ("/detokenize", {"tokens": [10**6]}, "outside the tokenizer's vocabulary"),
        ("/detokenize", {"tokens": ["a"]}, "tokens.0 is 'a'"),
        ("/tokenize", {"model": "gpt-9", "prompt": "a"}, "no model named 'gpt-9'"),
        ("/v1/chat/completions", {"messages": MESSAGES, "continue_final_message": True}, "add_generation_prompt"),
    ],
)
def test_what_is_wrong_is_said_in_openais_shape(client, tiny_model, path, fields, said):
    answer = client.post(path, json={"model": "tiny-llama"} | fields)
    assert answer.status_code in (400, 404)
    assert said in answer.json()["error"]["message"]


def test_head_is_get_without_a_body(client):
    for path in ("/v1/models", "/api/models", "/health", "/api/openapi.json", "/v1/nothing"):
        get, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
    assert client.head("/v1/chat/completions").status_code == 405


def test_a_preflight_without_allowed_origins_allows_nothing(client):
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    answer = client.options("/v1/chat/completions", headers=headers)
    assert answer.status_code == 204
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_thoughts_are_counted(client):
    """The tiny model never ends what its prompt has begun: all of its tokens are thoughts."""
    thinking = CHAT_TEMPLATE.replace("assistant\n", "assistant\n<think>\n") + "{# </think> #}"
    body = {"name": "Thinks", "base_model": "tiny-llama", "chat_template": thinking}
    model = str(client.post("/api/models", json=body).raise_for_status().json()["id"])
    limit = {"model": model, "temperature": 1, "seed": 5}
    chat = {"messages": [{"role": "user", "content": "The quick brown fox"}], "max_tokens": 20, **limit}
    answer = client.post("/v1/chat/completions", json=chat).raise_for_status().json()
    assert answer["choices"][0]["message"]["reasoning_content"]
    written = answer["usage"]["completion_tokens"]
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": written}
    streamed = client.post(
        "/v1/chat/completions", json=chat | {"stream": True, "stream_options": {"include_usage": True}}
    )
    usage = json.loads(streamed.text.split("data: ")[-2])["usage"]
    assert usage == answer["usage"]
    usage = client.post("/v1/responses", json={"input": "Hm?", "max_output_tokens": 20, **limit}).json()["usage"]
    assert usage["output_tokens_details"] == {"reasoning_tokens": usage["output_tokens"]}
    plain = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 20, **limit}).json()
    assert "completion_tokens_details" not in plain["usage"]
