"""Streams as proxies and impatient clients need them."""

import json

import pytest

MESSAGES = [{"role": "user", "content": "Who are you?"}]
LONG = {"temperature": 0, "max_tokens": 8, "stream": True}


def lines_of(client, path, body):
    with client.stream("POST", path, json={"model": "tiny-llama"} | body) as response:
        assert response.status_code == 200
        assert response.headers["x-accel-buffering"] == "no"
        return [line for line in response.iter_lines() if line]


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", {"messages": MESSAGES}), ("/v1/completions", {"prompt": "The quick"})],
)
def test_a_stream_is_what_the_whole_answer_is(client, tiny_model, path, body):
    lines = lines_of(client, path, body | LONG | {"stream_options": {"include_usage": True}})
    *chunks, end = [line.removeprefix("data: ") for line in lines if not line.startswith(":")]
    assert end == "[DONE]"
    read = [json.loads(chunk) for chunk in chunks]
    whole = client.post(path, json={"model": "tiny-llama"} | body | LONG | {"stream": False}).json()
    assert read[-1]["usage"] == whole["usage"]
    texts = [
        choice["delta"].get("content", "") if "delta" in choice else choice["text"]
        for chunk in read
        for choice in chunk["choices"]
    ]
    choice = whole["choices"][0]
    assert "".join(texts) == (choice["message"]["content"] if "message" in choice else choice["text"])
