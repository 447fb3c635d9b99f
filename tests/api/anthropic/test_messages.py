"""Anthropic's Messages API: what goes in, what comes out, whole and streamed, and what is wrong, in its shapes."""

import json

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.generation.conversation import End, Said
from api.generation.reading import CallArguments, CallBegun, Content, Reasoning
from api.routes.anthropic.output import MessageWriter
from api.routes.anthropic.request import chat_request
from api.routes.anthropic.schemas import MessagesRequest
from configs.keys import Scope, new_key
from tests.api.anthropic.types import EVENT, ErrorResponse, Message

PATH = "/v1/messages"
QUESTION = [{"role": "user", "content": "Who are you?"}]
GREEDY = {"model": "tiny-llama", "temperature": 0, "max_tokens": 8, "messages": QUESTION}
HEADERS = {"anthropic-version": "2023-06-01", "anthropic-beta": "x"}


def ask(client, **fields):
    response = client.post(PATH, json=GREEDY | fields, headers=HEADERS)
    assert response.status_code == 200, response.text
    Message.model_validate(response.json(), strict=True)
    return response.json()


def chat(client, messages, **fields):
    body = {"model": "tiny-llama", "temperature": 0, "max_tokens": 8, "messages": messages} | fields
    answer = client.post("/v1/chat/completions", json=body).json()
    return answer["choices"][0]["message"]["content"], answer["usage"]


def text_of(message):
    return "".join(block["text"] for block in message["content"])


def read_stream(lines):
    """The events, each held to its documented type and to its name."""
    named = [line.removeprefix("event: ") for line in lines[::2]]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert [event["type"] for event in events] == named
    for event in events:
        EVENT.validate_python(event)
    return events


def stream(client, **fields):
    with client.stream("POST", PATH, json=GREEDY | {"stream": True} | fields, headers=HEADERS) as response:
        assert response.status_code == 200
        return read_stream([line for line in response.iter_lines() if line and not line.startswith(":")])


def accumulated(events):
    """The message that a client makes of the events, as Anthropic's SDK does."""
    message = events[0]["message"]
    arguments: dict[int, str] = {}
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                if delta["type"] == "input_json_delta":
                    arguments[event["index"]] = arguments.get(event["index"], "") + delta["partial_json"]
                else:
                    name = delta["type"].removesuffix("_delta")
                    block[name] += delta[name]
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
    for index, text in arguments.items():
        message["content"][index]["input"] = json.loads(text)
    return message


TURNS = [
    ({}, QUESTION),
    ({"system": "Be short."}, [{"role": "system", "content": "Be short."}, *QUESTION]),
    (
        {"system": [{"type": "text", "text": "Be"}, {"type": "text", "text": "short."}]},
        [{"role": "system", "content": "Be\nshort."}, *QUESTION],
    ),
    (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]},
                *QUESTION,
            ]
        },
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}, *QUESTION],
    ),
]


@pytest.mark.parametrize(("asked", "messages"), TURNS)
def test_a_message_is_what_a_chat_of_the_same_turns_answers(client, tiny_model, asked, messages):
    message = ask(client, **asked)
    content, usage = chat(client, messages)
    assert text_of(message) == content
    assert (message["stop_reason"], message["stop_sequence"]) == ("max_tokens", None)
    counted = message["usage"]
    assert (counted["input_tokens"], counted["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])


def test_an_answer_that_the_client_has_begun_is_gone_on_with(client, tiny_model):
    begun = [*QUESTION, {"role": "assistant", "content": "I am"}]
    content, _ = chat(client, begun, add_generation_prompt=False, continue_final_message=True)
    assert text_of(ask(client, messages=begun)) == content


@pytest.mark.parametrize("asked", [{}, {"temperature": 1, "top_k": 1}, {"max_tokens": 60}])
def test_events_make_the_whole_message(client, tiny_model, asked):
    whole, events = ask(client, **asked), stream(client, **asked)
    assert accumulated(events) | {"id": ""} == whole | {"id": ""}
    assert events[0]["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"] > 0
    kinds = [event["type"] for event in events]
    deltas = kinds.count("content_block_delta")
    start = ["message_start", "ping", "content_block_start"]
    end = ["content_block_stop", "message_delta", "message_stop"]
    assert kinds == [*start, *["content_block_delta"] * deltas, *end]


def test_a_stop_sequence_is_named(client, tiny_model):
    whole = text_of(ask(client, max_tokens=30))
    stop = whole[4:6]
    message = ask(client, max_tokens=30, stop_sequences=["never said", stop])
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", stop)
    assert text_of(message) == whole[: whole.index(stop)]
    assert accumulated(stream(client, max_tokens=30, stop_sequences=[stop]))["stop_sequence"] == stop


def writer_of(parts, end):
    writer = MessageWriter("msg_1", "tiny-llama")
    events = writer.begin(3)
    for part in parts:
        events += writer.push(Said(0, [part], [], None))
    return writer, events + writer.push(Said(0, [], [], end))


def test_thoughts_text_and_calls_are_blocks_of_their_own():
    call = [CallBegun(0, "call_1", "weather"), CallArguments(0, '{"city"'), CallArguments(0, ': "Oslo"}')]
    other = [CallBegun(1, "call_2", "now"), CallArguments(1, "{}")]
    parts = [Reasoning("h"), Reasoning("m"), Content("It"), Content(" is"), *call, *other, Content(".")]
    writer, events = writer_of(parts, End("tool_calls", 3, 9))
    Message.model_validate(writer.message, strict=True)
    assert writer.message["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "It is"},
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
        {"type": "text", "text": "."},
    ]
    assert writer.message["stop_reason"] == "tool_use"
    for event in events:
        EVENT.validate_python(event)
    assert accumulated(events) == writer.message


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (End("stop", 1, 0), "end_turn"),
        (End("stop", 1, 0, stop_string="x"), "stop_sequence"),
        (End("length", 1, 0), "max_tokens"),
        (End("tool_calls", 1, 0), "tool_use"),
    ],
)
def test_why_an_answer_ended_is_told_in_anthropics_words(end, reason):
    writer, events = writer_of([], end)
    assert writer.message["stop_reason"] == reason
    assert writer.message["content"] == [{"type": "text", "text": ""}]
    assert accumulated(events) == writer.message


TOOL = {"name": "weather", "description": "d", "input_schema": {"type": "object", "properties": {}}}


def test_calls_and_their_results_are_turns_of_a_chat():
    body = MessagesRequest.model_validate(
        GREEDY
        | {
            "tools": [TOOL],
            "tool_choice": {"type": "auto"},
            "thinking": {"type": "disabled"},
            "messages": [
                {"role": "user", "content": "Weather?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": ""},
                        {"type": "text", "text": "Let me see."},
                        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "3 C"}]},
                        {"type": "tool_result", "tool_use_id": "call_2", "content": "rain", "is_error": True},
                        {"type": "text", "text": "And?"},
                    ],
                },
            ],
        }
    )
    asked = chat_request(body)
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    assert [message.rendered() for message in asked.messages] == [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call], "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "call_1", "content": "3 C"},
        {"role": "tool", "tool_call_id": "call_2", "content": "rain"},
        {"role": "user", "content": "And?"},
    ]
    function = {"name": "weather", "description": "d", "parameters": TOOL["input_schema"]}
    assert [tool.rendered() for tool in asked.offered] == [{"type": "function", "function": function}]
    assert asked.template_arguments() == {"enable_thinking": False}


@pytest.mark.parametrize("asked", [{}, {"system": "Be short."}])
def test_the_tokens_of_a_prompt_are_counted_before_it_is_answered(client, tiny_model, asked):
    body = {"model": "tiny-llama", "messages": QUESTION} | asked
    counted = client.post(f"{PATH}/count_tokens", json=body, headers=HEADERS)
    assert counted.json() == {"input_tokens": ask(client, **asked)["usage"]["input_tokens"]}
    wrong = client.post(f"{PATH}/count_tokens", json=body | {"model": "nobody"})
    assert ErrorResponse.model_validate(wrong.json()).error.type == "not_found_error"


IMAGE = {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}}
REFUSED = [
    ({"max_tokens": None}, "max_tokens is required"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "image"),
    ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "document"),
    ({"messages": [{"role": "system", "content": "x"}]}, "role"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "bash_20250124"),
    ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
    ({"temperature": "hot"}, "temperature"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "surrogate"),
    ({"messages": [{"role": "user", "content": "word " * 2000}]}, "tokens"),
]


@pytest.mark.parametrize(("fields", "said"), REFUSED)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_wrong_is_told_in_anthropics_shape(client, tiny_model, fields, said, streamed):
    body = json.dumps(GREEDY | {"stream": streamed} | fields)
    response = client.post(PATH, content=body, headers=HEADERS | {"content-type": "application/json"})
    assert response.status_code == 400
    error = ErrorResponse.model_validate(response.json())
    assert error.error.type == "invalid_request_error"
    assert said in error.error.message
    assert response.headers["request-id"] == error.request_id


def test_every_layers_errors_are_in_anthropics_shape(client, settings, tiny_model):
    def error(response, status, kind):
        assert (response.status_code, ErrorResponse.model_validate(response.json()).error.type) == (status, kind)

    error(client.post(PATH, json=GREEDY | {"model": "nobody"}), 404, "not_found_error")
    error(client.post(PATH, content=b"{", headers={"content-type": "application/json"}), 400, "invalid_request_error")
    error(client.get(PATH), 405, "invalid_request_error")
    error(client.post(f"{PATH}/nothing", json={}), 404, "not_found_error")
    error(client.post(PATH, json=GREEDY, headers={"origin": "https://evil.test"}), 403, "permission_error")
    large = json.dumps(GREEDY | {"system": "x" * settings.max_request_bytes})
    error(client.post(PATH, content=large, headers={"content-type": "application/json"}), 413, "request_too_large")


def test_a_key_is_a_header_of_its_own(settings, tiny_model):
    key, configured = new_key("mine", Scope.READ)
    keyed = settings.model_copy(update={"api_keys": str(configured)})
    with TestClient(create_app(keyed), base_url="http://localhost") as app:
        assert app.post(PATH, json=GREEDY, headers={"x-api-key": key}).status_code == 200
        assert app.post(PATH, json=GREEDY, headers={"authorization": f"Bearer {key}"}).status_code == 200
        for headers in ({}, {"x-api-key": "sk-ant-none"}):
            response = app.post(PATH, json=GREEDY, headers=headers)
            assert response.status_code == 401
            assert ErrorResponse.model_validate(response.json()).error.type == "authentication_error"


def test_what_has_no_effect_is_named(client, tiny_model):
    response = client.post(PATH, json=GREEDY | {"metadata": {"user_id": "u"}, "service_tier": "auto"})
    assert sorted(response.headers["x-ignored-parameters"].split(", ")) == ["metadata", "service_tier"]
