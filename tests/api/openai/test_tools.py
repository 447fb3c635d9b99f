"""Functions that models call: offered, required, named, strict, in the older form, whole and streamed."""

import json
from typing import Any

import jsonschema
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

MESSAGES = [{"role": "user", "content": "Is it on?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"at": {"enum": ["table", "shelf"]}, "times": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["at", "times"],
    "additionalProperties": False,
}
FUNCTIONS: list[dict[str, Any]] = [
    {"name": "look", "description": "Look.", "parameters": PARAMETERS},
    {"name": "wait"},
]
LOOK, WAIT = ({"type": "function", "function": function} for function in FUNCTIONS)
SCHEMAS = {"look": PARAMETERS, "wait": {"maxProperties": 0}}
NAMED = {"type": "function", "function": {"name": "look"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
ASSISTANT = {"role": "assistant", "content": None}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "table", "times": 1}'}}


@pytest.fixture(scope="module")
def long_model(client, endless_llama_dir):
    """A model whose template has no place for tools, and whose context has room for them."""
    assert client.post("/api/models", json={"name": "Long", "base_model": "endless-llama"}).status_code == 201
    return "endless-llama"


@pytest.fixture
def ask(client, long_model):
    def asked(status=200, **fields):
        body = {"model": long_model, "messages": MESSAGES, "max_tokens": 200, "seed": 1} | fields
        response = client.post("/v1/chat/completions", json=body)
        assert response.status_code == status, response.text
        return response

    return asked


def message_of(response):
    completion = ChatCompletion.model_validate(response.json(), strict=True)
    return completion.choices[0].message, completion.choices[0].finish_reason


def checked(calls):
    for call in calls:
        jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])
    return [call.name for call in calls]


@pytest.mark.parametrize(
    ("fields", "names", "reason"),
    [
        ({"tool_choice": "required"}, {"look", "wait"}, "tool_calls"),
        ({"tool_choice": "required", "parallel_tool_calls": False}, {"look", "wait"}, "tool_calls"),
        ({"tool_choice": NAMED}, {"look"}, "stop"),
        (
            {"tool_choice": ALLOWED, "parallel_tool_calls": False},
            {"look"},
            "tool_calls",
        ),
    ],
)
def test_required_calls_of_a_random_model_are_valid(ask, fields, names, reason):
    response = ask(tools=[LOOK, WAIT], **fields)
    message, finish_reason = message_of(response)
    assert finish_reason == reason
    assert message.content is None
    called = checked([call.function for call in message.tool_calls])
    assert called
    assert set(called) <= names
    if "parallel_tool_calls" in fields or fields["tool_choice"] == NAMED:
        assert len(called) == 1
    assert response.headers["x-tool-prompt"] == "generic"


def test_a_stream_is_what_the_whole_answer_is(ask):
    fields = {"tools": [LOOK, WAIT], "tool_choice": "required"}
    message, _ = message_of(ask(**fields))
    streamed = ask(stream=True, **fields)
    assert streamed.headers["x-tool-prompt"] == "generic"
    lines = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: {")]
    chunks = [ChatCompletionChunk.model_validate_json(line, strict=True) for line in lines]
    calls = {}
    for delta in [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or []]:
        if delta.id is not None:
            calls[delta.index] = [delta.function.name, ""]
        calls[delta.index][1] += delta.function.arguments
    assert list(calls.values()) == [[call.function.name, call.function.arguments] for call in message.tool_calls]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_what_is_answered_goes_on(ask):
    """The calls of an answer, sent back with their results, as clients do."""
    message, _ = message_of(ask(tools=[LOOK], tool_choice="required"))
    results = [{"role": "tool", "tool_call_id": call.id, "content": "on"} for call in message.tool_calls]
    message_of(ask(tools=[LOOK], max_tokens=4, messages=[*MESSAGES, message.model_dump(), *results]))


def test_strict_lets_text_pass(ask):
    strict = {"type": "function", "function": {**FUNCTIONS[0], "strict": True}}
    message, _ = message_of(ask(tools=[strict], max_tokens=8))
    assert message.content
    assert not message.tool_calls


@pytest.mark.parametrize(
    "fields", [{"tools": []}, {"tools": None}, {"tool_choice": "none"}, {"tool_choice": "auto"}, {}]
)
def test_no_tools(ask, fields):
    response = ask(max_tokens=4, **fields)
    assert "x-tool-prompt" not in response.headers
    assert message_of(response)[0].tool_calls is None


def test_none_does_not_tell_of_tools(ask):
    told = ask(max_tokens=1, tools=[LOOK]).json()["usage"]["prompt_tokens"]
    response = ask(max_tokens=1, tools=[LOOK], tool_choice="none")
    assert response.json()["usage"]["prompt_tokens"] < told / 2
    assert "x-tool-prompt" not in response.headers


def test_the_older_form(ask):
    message, reason = message_of(ask(functions=FUNCTIONS, function_call={"name": "look"}))
    assert reason == "stop"
    assert checked([message.function_call]) == ["look"]
    assert message.tool_calls is None
    streamed = ask(functions=FUNCTIONS, function_call={"name": "look"}, stream=True)
    lines = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: {")]
    deltas = [ChatCompletionChunk.model_validate_json(line).choices[0].delta.function_call for line in lines]
    assert "".join(delta.arguments for delta in deltas if delta) == message.function_call.arguments
    history = [
        *MESSAGES,
        ASSISTANT | {"function_call": CALL["function"]},
        {"role": "function", "name": "look", "content": "on"},
    ]
    message_of(ask(functions=FUNCTIONS, messages=history, max_tokens=4))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tools": [{"type": "web_search"}]}, "'web_search', which is not supported"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "'custom', which is not supported"),
        ({"tool_choice": "required"}, "tool_choice is only allowed when tools are given"),
        ({"tool_choice": NAMED}, "tool_choice is only allowed when tools are given"),
        ({"tool_choice": NAMED, "tools": [WAIT]}, "'look', which is none of the tools: wait"),
        ({"tool_choice": {"type": "web_search"}, "tools": [WAIT]}, "'web_search', which is not supported"),
        ({"function_call": {"name": "look"}}, "function_call is only allowed when functions are given"),
        ({"functions": FUNCTIONS, "tools": [LOOK]}, "functions are the older form of tools"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "thing"}}}],
                "tool_choice": "required",
            },
            "look can't be held to their schema",
        ),
    ],
)
def test_what_is_refused(ask, fields, said):
    error = ask(status=400, **fields).json()["error"]
    assert said in error["message"]
    assert "pydantic" not in error["message"]
    assert "[" not in error["message"].split(":")[0]
