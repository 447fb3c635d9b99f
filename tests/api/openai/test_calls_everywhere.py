"""A required call by every API: valid whatever the model, and its result is answered."""

import json

import pytest

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
ASKED = [{"role": "user", "content": "What is the weather?"}]
LIMIT = 120


@pytest.fixture(scope="module")
def model(client, endless_llama_dir):
    """One whose context has room for tools; it was never trained, and its template has no place for them."""
    client.post("/api/models", json={"name": "Long", "base_model": endless_llama_dir.name}).raise_for_status()
    return endless_llama_dir.name


def called(arguments):
    given = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert given.keys() == {"city", "days"}
    assert given["city"] in ("Oslo", "Rome")
    assert given["days"] in range(1, 6)


@pytest.mark.parametrize("stream", [False, True])
def test_chat(client, sdk, model, stream):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
    settings = {"model": model, "tools": tools, "max_tokens": LIMIT, "seed": 5}
    required = {"tool_choice": "required", "parallel_tool_calls": False}
    if stream:
        with sdk.chat.completions.stream(messages=ASKED, **required, **settings) as events:
            message = events.get_final_completion().choices[0].message
    else:
        raw = sdk.chat.completions.with_raw_response.create(messages=ASKED, **required, **settings)
        assert raw.headers["x-tool-prompt"] == "generic"
        message = raw.parse().choices[0].message
    (call, *_) = message.tool_calls
    assert call.function.name == "weather"
    called(call.function.arguments)
    results = [{"role": "tool", "tool_call_id": one.id, "content": "3 °C"} for one in message.tool_calls]
    answer = sdk.chat.completions.create(messages=[*ASKED, message, *results], tool_choice="none", **settings)
    assert answer.choices[0].message.tool_calls is None


@pytest.mark.parametrize("stream", [False, True])
def test_responses(client, sdk, model, stream):
    tools = [{"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}]
    settings = {"model": model, "tools": tools, "max_output_tokens": LIMIT, "extra_body": {"seed": 5}}
    required = {"tool_choice": "required", "parallel_tool_calls": False}
    if stream:
        with sdk.responses.stream(input=ASKED, **required, **settings) as events:
            response = events.get_final_response()
    else:
        response = sdk.responses.create(input=ASKED, **required, **settings)
    calls = [item for item in response.output if item.type == "function_call"]
    assert calls[0].name == "weather"
    for call in calls:
        called(call.arguments)
    results = [{"type": "function_call_output", "call_id": one.call_id, "output": "3 °C"} for one in calls]
    then = sdk.responses.create(input=results, previous_response_id=response.id, tool_choice="none", **settings)
    assert all(item.type == "message" for item in then.output)


def test_messages(client, model):
    body = {
        "model": model,
        "max_tokens": LIMIT,
        "messages": ASKED,
        "tools": [{"name": "weather", "input_schema": PARAMETERS}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    answer = client.post("/v1/messages", json=body)
    assert answer.headers["x-tool-prompt"] == "generic"
    message = answer.json()
    (use,) = [block for block in message["content"] if block["type"] == "tool_use"]
    assert message["stop_reason"] == "tool_use"
    called(use["input"])
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use["id"], "content": "3 °C"}]}
    turns = [*ASKED, {"role": "assistant", "content": message["content"]}, result]
    then = client.post("/v1/messages", json=body | {"messages": turns, "tool_choice": {"type": "none"}})
    assert then.status_code == 200, then.text
