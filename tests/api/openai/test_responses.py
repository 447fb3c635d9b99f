"""Responses with OpenAI's SDK: what goes in, what comes out, whole and streamed; every answer is held to its types."""

import json

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

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
    body = (Response.model_validate(response) if isinstance(response, dict) else response).to_dict()
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
    assert deltas > 1
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
    }
    response = client.post("/v1/responses", json=GREEDY | {"input": QUESTION} | asked)
    assert response.status_code == 200
    assert sorted(response.headers["x-ignored-parameters"].split(", ")) == [
        "include.reasoning.encrypted_content",
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
    ({"temperature": "hot"}, "temperature", "temperature"),
    ({"metadata": {"a": 1}}, "metadata", "metadata"),
    ({"text": {"format": {"type": "grammar"}}}, "grammar", "text.format"),
    ({"tool_choice": {"type": "web_search"}}, "web_search", "tool_choice"),
]


@pytest.mark.parametrize(("asked", "said", "param"), REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_what_would_change_the_meaning_is_refused_by_name(sdk, tiny_model, asked, said, param, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(**GREEDY | {"input": QUESTION, "stream": stream} | asked)
    assert said in caught.value.message
    assert caught.value.param.startswith(param)


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
