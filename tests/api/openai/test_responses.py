"""Responses with OpenAI's SDK: what goes in, what comes out, whole and streamed; every answer is held to its types."""

import json
from typing import Any

import openai
import pytest
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from api.generation.conversation import End, Said
from api.generation.reading import CallArguments, CallBegun, Content, Reasoning
from api.routes.openai.responses.input_items import ItemReference
from api.routes.openai.responses.items import shown
from api.routes.openai.responses.output import OutputWriter
from api.routes.openai.responses.presenter import new_response
from api.routes.openai.responses.request import chat_request
from api.routes.openai.responses.schemas import ResponseRequest

GREEDY = {"model": "tiny-llama", "temperature": 0, "max_output_tokens": 8}
QUESTION = "Who are you?"
EVENT = TypeAdapter(ResponseStreamEvent)
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


def ask(sdk, given=QUESTION, **asked):
    return sdk.responses.create(**GREEDY | {"input": given} | asked)


def chat(sdk, messages):
    answer = sdk.chat.completions.create(model="tiny-llama", temperature=0, max_tokens=8, messages=messages)
    return answer.choices[0].message.content


def events_of(client, **asked):
    """The events as they are sent, each held to the SDK's type and to its name."""
    body = GREEDY | {"input": QUESTION, "stream": True} | asked
    with client.stream("POST", "/v1/responses", json=body) as response:
        assert response.status_code == 200
        lines = [line for line in response.iter_lines() if line and not line.startswith(":")]
    names = [line.removeprefix("event: ") for line in lines[::2]]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert [event["type"] for event in events] == names
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        EVENT.validate_python(event, strict=True)
    return events


def comparable(response):
    """A response without what no two of them share."""
    body: Any = (Response.model_validate(response) if isinstance(response, dict) else response).to_dict()
    for item in body["output"]:
        item.pop("id")
    return {name: body.get(name) for name in ("output", "status", "usage", "incomplete_details", "text", "tools")}


CONVERSATIONS = [
    (QUESTION, [{"role": "user", "content": QUESTION}]),
    ([{"role": "user", "content": QUESTION}], [{"role": "user", "content": QUESTION}]),
    (
        [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be short."}]},
            {"role": "user", "content": [{"type": "input_text", "text": "Hello"}, {"type": "input_text", "text": "!"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Hi", "annotations": []}]},
            {"role": "user", "content": "And?"},
        ],
        [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Hello!"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "And?"},
        ],
    ),
]


@pytest.mark.parametrize(("given", "messages"), CONVERSATIONS)
def test_a_response_is_what_a_chat_of_the_same_turns_answers(sdk, tiny_model, given, messages):
    answer = ask(sdk, given)
    assert answer.output_text == chat(sdk, messages)
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_instructions_are_a_system_message_before_all_others(sdk, tiny_model):
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": QUESTION}]
    assert ask(sdk, instructions="Be short.").output_text == chat(sdk, messages)


def test_events_come_in_openais_order(client, tiny_model):
    kinds = [event["type"] for event in events_of(client)]
    deltas = kinds.count("response.output_text.delta")
    assert deltas
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
        {"text": {"format": {"type": "json_schema", "name": "ok", "schema": SCHEMA}}, "max_output_tokens": 40},
        {"text": {"format": {"type": "json_object"}}},
        {"instructions": "Be short.", "metadata": {"a": "b"}, "user": "me", "parallel_tool_calls": True},
    ],
)
def test_a_stream_is_what_the_whole_response_is(client, sdk, tiny_model, asked):
    whole = ask(sdk, **asked)
    events = events_of(client, **asked)
    assert comparable(events[-1]["response"]) == comparable(whole)
    with sdk.responses.stream(**GREEDY | {"input": QUESTION} | asked) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(pieces) == whole.output_text
    if "include" in asked:
        told = [one for event in events if "logprobs" in event and "delta" in event for one in event["logprobs"]]
        assert told == [one.model_dump() for one in whole.output[0].content[0].logprobs]
        assert len(told) == whole.usage.output_tokens
        assert {len(one["top_logprobs"]) for one in told} == {2}


def written(parts, end, **asked):
    """What the writer makes of parts, each of which comes by itself."""
    body = ResponseRequest.model_validate(GREEDY | asked)
    writer = OutputWriter(new_response("resp_1", 1, body), with_logprobs=False)
    events = writer.begin(queued=False)
    for part in parts:
        events += writer.push(Said(0, [part], [], None))
    events += writer.push(Said(0, [], [], end))
    for event in events:
        EVENT.validate_python(event, strict=True)
    return writer.response, events


CALLS = [CallBegun(0, "c1", "weather"), CallArguments(0, '{"city"'), CallArguments(0, ': "Oslo"}')]
OPENED, CLOSED = ["output_item.added", "content_part.added"], ["content_part.done", "output_item.done"]
OF_TEXT = [*OPENED, "output_text.delta", "output_text.delta", "output_text.done", *CLOSED]
OF_THOUGHTS = [*OPENED, "reasoning_text.delta", "reasoning_text.done", *CLOSED]
OF_CALL = [
    "output_item.added",
    "function_call_arguments.delta",
    "function_call_arguments.delta",
    "function_call_arguments.done",
    "output_item.done",
]


@pytest.mark.parametrize(
    ("parts", "end", "kinds", "types"),
    [
        ([Content("a"), Content("b")], "stop", [*OF_TEXT, "completed"], ["message"]),
        ([Content("a"), Content("b")], "length", [*OF_TEXT, "incomplete"], ["message"]),
        (CALLS, "tool_calls", [*OF_CALL, "completed"], ["function_call"]),
        (
            [Reasoning("h"), Content("a"), Content("b"), *CALLS],
            "tool_calls",
            [*OF_THOUGHTS, *OF_TEXT, *OF_CALL, "completed"],
            ["reasoning", "message", "function_call"],
        ),
        (
            [*CALLS, CallBegun(1, "c2", "now"), CallArguments(1, "{"), CallArguments(1, "}")],
            "tool_calls",
            [*OF_CALL, *OF_CALL, "completed"],
            ["function_call", "function_call"],
        ),
        ([], "stop", [*OPENED, "output_text.done", *CLOSED, "completed"], ["message"]),
    ],
)
def test_thoughts_text_and_calls_are_items_of_their_own(parts, end, kinds, types):
    response, events = written(parts, End(end, 3, 4))
    assert [event["type"].removeprefix("response.") for event in events] == ["created", "in_progress", *kinds]
    assert [item["type"] for item in response["output"]] == types
    assert [event["item"]["id"] for event in events if event["type"].endswith("item.done")] == [
        item["id"] for item in response["output"]
    ]
    assert [event["output_index"] for event in events if event["type"].endswith("item.added")] == list(
        range(len(types))
    )
    Response.model_validate(response, strict=True)
    assert response["usage"]["total_tokens"] == 7
    state = ResponseStreamState(input_tools=openai.omit, text_format=openai.omit)
    for event in events:
        state.handle_event(EVENT.validate_python(event))
    if kinds[-1] == "completed":
        accumulated: Any = state._completed_response.to_dict()["output"]
        assert [item["id"] for item in accumulated] == [item["id"] for item in response["output"]]


def test_a_failure_ends_what_was_being_written():
    body = ResponseRequest.model_validate(GREEDY)
    writer = OutputWriter(new_response("resp_1", 1, body), with_logprobs=False)
    events = [*writer.begin(queued=False), *writer.push(Said(0, [Content("a")], [], None))]
    events += writer.fail("part_down", "The engine went away.")
    for event in events:
        EVENT.validate_python(event, strict=True)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert (writer.response["status"], writer.response["output"][0]["status"]) == ("failed", "incomplete")


FUNCTION = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": None}
NOW = {"type": "function", "name": "now"}


def test_items_of_calls_and_thoughts_are_turns_of_a_chat():
    items = [
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Oslo"}'},
        {"type": "function_call", "call_id": "c2", "name": "now", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "3 C"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "noon"}]},
        {"type": "function_call", "call_id": "c3", "name": "now", "arguments": "{}"},
    ]
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [NOW]}
    body = ResponseRequest.model_validate(
        GREEDY | {"input": items, "tools": [FUNCTION, NOW], "tool_choice": allowed, "reasoning": {"effort": "minimal"}}
    )
    asked = chat_request(body, [shown(item) for item in body.input or [] if not isinstance(item, ItemReference)])
    calls = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id, name, arguments in (("c1", "weather", '{"city": "Oslo"}'), ("c2", "now", "{}"), ("c3", "now", "{}"))
    ]
    turns = [{name: value for name, value in one.rendered().items() if value} for one in asked.messages]
    assert turns == [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Wait.", "reasoning_content": "hm", "tool_calls": calls[:2]},
        {"role": "tool", "tool_call_id": "c1", "content": "3 C"},
        {"role": "tool", "tool_call_id": "c2", "content": "noon"},
        {"role": "assistant", "tool_calls": calls[2:]},
    ]
    assert asked.offered_names == ["now"]
    assert asked.template_arguments() == {"reasoning_effort": "low"}


def test_json_of_a_schema_comes_complete(sdk, tiny_model):
    form = {"type": "json_schema", "name": "ok", "schema": SCHEMA}
    answer = ask(sdk, text={"format": form}, max_output_tokens=60)
    assert answer.status == "completed"
    assert set(json.loads(answer.output_text)) == {"ok"}


def test_what_has_no_effect_is_named_in_a_header(client, tiny_model):
    asked = {
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "safety_identifier": None,
        "text": {"verbosity": "low"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "top_logprobs": 1,
        "odd name\r\nx: y": 1,
        "max_tool_calls": 3,
    }
    response = client.post("/v1/responses", json=GREEDY | {"input": QUESTION} | asked)
    assert response.status_code == 200
    assert sorted(response.headers["x-ignored-parameters"].split(", ")) == [
        "include.reasoning.encrypted_content",
        "max_tool_calls",
        "odd name\\x0d\\x0ax: y",
        "prompt_cache_key",
        "reasoning.summary",
        "service_tier",
        "text.verbosity",
        "top_logprobs",
    ]
    plain = client.post("/v1/responses", json=GREEDY | {"input": QUESTION})
    assert "x-ignored-parameters" not in plain.headers
    assert comparable(plain.json()) == comparable(response.json())


IMAGE = {"type": "input_image", "image_url": "https://x.test/a.png", "detail": "auto"}
REFUSED = [
    ({"tools": [{"type": "web_search"}]}, "web_search", "tools.0"),
    ({"tools": [{"type": "mcp", "server_label": "a"}]}, "mcp", "tools.0"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt", "prompt"),
    ({"input": [{"role": "user", "content": [IMAGE]}]}, "input_image", "input.0"),
    ({"input": [{"type": "computer_call_output", "call_id": "a"}]}, "computer_call_output", "input.0"),
    ({"input": []}, "input is required", "input"),
    ({"input": None}, "input is required", "input"),
    ({"input": [{"role": "tool", "content": "x"}]}, "role", "input.0"),
    ({"background": True, "store": False}, "store", "store"),
    ({"previous_response_id": "resp_a", "conversation": "conv_a"}, "previous_response_id", "conversation"),
    ({"temprature": 1}, "did you mean temperature", "temprature"),
    ({"top_k": "many"}, "top_k", "top_k"),
    ({"temperature": "hot"}, "temperature", "temperature"),
    ({"metadata": {"a": 1}}, "metadata", "metadata"),
    ({"text": {"format": {"type": "grammar"}}}, "grammar", "text.format"),
    ({"tool_choice": {"type": "web_search"}}, "web_search", "tool_choice"),
]


@pytest.mark.parametrize(("asked", "said", "param"), REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_what_would_change_the_meaning_is_refused_by_name(sdk, tiny_model, asked, said, param, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(sdk, stream=stream, extra_body=asked)
    assert said in caught.value.message
    assert caught.value.param == param if param is None else caught.value.param.startswith(param)
    assert not any(internal in caught.value.message for internal in ("function-", "constrained", "union", "Input tag"))


def test_what_chat_completions_take_besides_is_taken_here(sdk, client, tiny_model):
    besides = {"top_k": 3, "seed": 7, "repetition_penalty": 1.3, "stop": ["e"]}
    body = {"model": "tiny-llama", "temperature": 1.0}
    messages = [{"role": "user", "content": QUESTION}]
    answer = ask(sdk, temperature=1.0, extra_body=besides)
    same = client.post("/v1/chat/completions", json=body | besides | {"messages": messages, "max_tokens": 8}).json()
    assert answer.output_text == same["choices"][0]["message"]["content"]


def test_an_unknown_model_is_a_404(sdk, tiny_model):
    with pytest.raises(openai.NotFoundError):
        ask(sdk, model="nobody")


LONG = [
    {"role": "system", "content": "Be short."},
    *[
        {"role": role, "content": f"{role} {turn} " + "word " * 12}
        for turn in range(12)
        for role in ("user", "assistant")
    ],
    {"role": "user", "content": QUESTION},
]


def test_a_prompt_that_is_too_long_loses_its_oldest_turns_if_it_may(sdk, tiny_model):
    with pytest.raises(openai.BadRequestError):
        ask(sdk, LONG)
    answer = ask(sdk, LONG, truncation="auto")
    assert answer.truncation == "auto"
    fitting = [
        start for start in range(1, len(LONG), 2) if answer.output_text == chat_or_none(sdk, [LONG[0], *LONG[start:]])
    ]
    assert fitting
    with pytest.raises(openai.BadRequestError):
        ask(sdk, "word " * 2000, truncation="auto")


def chat_or_none(sdk, messages):
    try:
        return chat(sdk, messages)
    except openai.BadRequestError:
        return None
