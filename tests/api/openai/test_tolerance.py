"""What clients send beside what matters: ignored and named, or refused by name; never an answer to something else."""

import json

import pytest

from api.routes.openai.tolerant import HARMLESS, IGNORED_HEADER, REFUSED

JSON = {"Content-Type": "application/json"}
ASKED = [{"role": "user", "content": "Who are you?"}]
SHORT = {"model": "tiny-llama", "temperature": 0, "max_tokens": 6}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def chat(client, tiny_model):
    def ask(messages=ASKED, **fields):
        return client.post(CHAT, json=SHORT | {"messages": messages} | fields)

    return ask


@pytest.fixture
def complete(client, tiny_model):
    return lambda **fields: client.post(TEXT, json=SHORT | {"prompt": "The quick"} | fields)


def text_of(response):
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    return choice["text"] if "text" in choice else choice["message"]["content"]


def error_of(response):
    assert response.status_code == 400, response.text
    message = response.json()["error"]["message"]
    assert not any(internal in message for internal in ("[", "function-", "constrained", "union", "Input tag")), message
    return message


OFF = {
    "top_k": [-1, None, 0],
    "seed": [-1, None],
    "n": [1, None],
    "best_of": [1, None],
    "stop": [None, [], "", [""]],
    "max_tokens": [6],
    "stream": [False, None],
    "frequency_penalty": [0, None],
    "presence_penalty": [0.0, None],
    "logit_bias": [{}, None],
    "stream_options": [None],
}
OFF_IN_CHAT = {
    "tools": [[], None],
    "tool_choice": [None, "none"],
    "parallel_tool_calls": [True, None],
    "response_format": [None, {"type": "text"}],
    "logprobs": [False, None],
    "chat_template_kwargs": [{}, None],
    "add_generation_prompt": [True],
    "continue_final_message": [False],
    "max_completion_tokens": [None],
}


def cases(table):
    return [(field, value) for field, values in table.items() for value in values]


@pytest.mark.parametrize(("field", "value"), cases(OFF))
def test_ways_to_leave_something_out_of_a_completion(complete, field, value):
    answer = complete(**{field: value})
    assert text_of(answer) == text_of(complete())
    assert IGNORED_HEADER not in answer.headers


@pytest.mark.parametrize(("field", "value"), cases(OFF | OFF_IN_CHAT))
def test_ways_to_leave_something_out_of_a_conversation(chat, field, value):
    answer = chat(**{field: value})
    assert text_of(answer) == text_of(chat())
    assert IGNORED_HEADER not in answer.headers


def test_what_has_no_effect_is_named(chat, complete):
    fields = dict.fromkeys(sorted(HARMLESS - {"reasoning_effort"}), "whatever")
    for answer in (chat(**fields), complete(**fields)):
        assert answer.status_code == 200
        assert answer.headers[IGNORED_HEADER].split(", ") == list(fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"store": True, "metadata": {"a": "b"}, "user": "me"}, "store, metadata, user"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options.include_obfuscation"),
        ({"of_tomorrow": [1]}, "of_tomorrow"),
        ({"a,b\n": 1}, "a\\x2cb\\x0a"),
        ({"é": 1}, "\\xe9"),
    ],
)
def test_further_fields_are_ignored_and_named(chat, fields, named):
    answer = chat(**fields)
    assert text_of(answer) == text_of(chat())
    assert answer.headers[IGNORED_HEADER] == named


def test_a_stream_names_them_too(client, chat):
    with client.stream("POST", CHAT, json=SHORT | {"messages": ASKED, "stream": True, "store": False}) as response:
        assert response.headers[IGNORED_HEADER] == "store"
        assert "data: [DONE]" in response.read().decode()


OF_MESSAGES = [
    ({"annotations": [], "audio": None, "refusal": None, "tool_calls": None, "function_call": None}, "annotations"),
    ({"refusal": None}, None),
    ({"cache_control": {"type": "ephemeral"}}, "cache_control"),
    ({"provider_specific_fields": {"a": 1}, "weight": 1}, "provider_specific_fields, messages.1.weight"),
]


@pytest.mark.parametrize(("fields", "named"), OF_MESSAGES)
def test_further_fields_of_messages(chat, fields, named):
    turns = [*ASKED, {"role": "assistant", "content": "A fox."}, {"role": "user", "content": "And I?"}]
    given = [turns[0], turns[1] | fields, turns[2]]
    answer = chat(given)
    assert text_of(answer) == text_of(chat(turns))
    assert answer.headers.get(IGNORED_HEADER) == (f"messages.1.{named}" if named else None)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "Who are you?"},
        {"type": "input_text", "text": "Who are you?"},
        {"type": "output_text", "text": "Who are you?", "annotations": []},
        {"type": "text", "text": "Who are you?", "cache_control": {"type": "ephemeral"}},
    ],
)
def test_parts_of_text(chat, part):
    assert text_of(chat([{"role": "user", "content": [part]}])) == text_of(chat())


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url"])
def test_parts_that_are_no_text_are_refused_by_their_kind(chat, kind):
    said = error_of(chat([{"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": kind, kind: {}}]}]))
    assert said.startswith("messages.0.content.1 is")
    assert f"models here read text only, and this is of the type '{kind}'" in said


def test_every_answer_can_be_sent_back(chat):
    turns = list(ASKED)
    for question in ("And then?", "Why?"):
        message = chat(turns, logprobs=True, n=2).json()["choices"][1]["message"]
        turns += [message, {"role": "user", "content": question}]
    plain = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    answer = chat(turns)
    assert text_of(answer) == text_of(chat(plain))
    assert IGNORED_HEADER not in answer.headers


def test_the_sdks_own_objects_can_be_sent_back(sdk, tiny_model):
    turns = list(ASKED)
    for _ in range(2):
        answer = sdk.chat.completions.create(messages=turns, **SHORT)
        turns += [answer.choices[0].message, {"role": "user", "content": "Go on."}]
    stream = sdk.chat.completions.create(messages=turns, **SHORT, stream=True)
    deltas = [chunk.choices[0].delta for chunk in stream]
    # What naive clients keep of a stream: all fields of all deltas.
    joined = {"content": "".join(delta.content or "" for delta in deltas), "role": "assistant"}
    rest = {name: value for delta in deltas for name, value in delta.model_dump().items() if name not in joined}
    sdk.chat.completions.create(messages=[*turns, rest | joined, {"role": "user", "content": "?"}], **SHORT)


WRONG = {
    "allowed_token_ids": [1], "audio": {"voice": "x"}, "bad_words": ["a"], "chat_template": "{{ x }}",
    "documents": [{"text": "a"}], "guided_choice": ["a"], "guided_grammar": "root", "guided_json": {"type": "object"},
    "guided_regex": "a+", "include_stop_str_in_output": True, "logits_processors": ["x"], "modalities": ["audio"],
    "prompt_embeds": "AA==", "return_token_ids": True, "return_tokens_as_token_ids": True,
    "structured_outputs": {"regex": "a"}, "suffix": "end", "truncate_prompt_tokens": 5, "use_beam_search": True,
    "web_search_options": {"a": 1},
}  # fmt: skip


def test_the_table_of_what_is_refused_is_whole():
    assert WRONG.keys() == REFUSED.keys()


@pytest.mark.parametrize("field", WRONG)
def test_what_would_make_another_answer_is_refused(chat, complete, field):
    for ask in (chat, complete):
        answer = ask(**{field: WRONG[field]})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"].startswith(f"{field} is ")
        assert answer.json()["error"]["param"] == field
        assert text_of(ask(**{field: None})) == text_of(ask())


def test_best_of_is_n(chat, complete):
    assert complete(best_of=2, n=2).status_code == 200
    assert "best_of is 3, and n is 2" in error_of(complete(best_of=3, n=2))


@pytest.mark.parametrize(
    ("field", "likely"),
    [("temprature", "temperature"), ("max_token", "max_tokens"), ("sead", None), ("top_kk", "top_k")],
)
def test_misspelled_fields(chat, field, likely):
    answer = chat(**{field: 0})
    if likely is None:
        assert answer.headers[IGNORED_HEADER] == field
    else:
        assert f"did you mean {likely}?" in error_of(answer)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"messages": 3}, "messages is 3"),
        ({"messages": []}, "messages is"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content is 3"),
        ({"messages": [{"role": "user", "content": [3]}]}, "messages.0.content.0 is 3"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text is required"),
        ({"messages": [{"role": "king", "content": "a"}]}, "messages.0.role is 'king'"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"stop": [3]}, "stop.0 is 3"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
    ],
)
def test_errors_name_the_field_and_no_internals(client, tiny_model, fields, said):
    answer = client.post(CHAT, json=SHORT | {"messages": ASKED} | fields)
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert message.startswith(said)
    assert not any(word in message for word in ("list[", "function-", "constrained-", "TextPart", "union"))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, '{"model":"tiny-llama","max_tokens":2,"messages":[{"role":"user","content":"a\\ud83c"}]}'),
        (CHAT, '{"model":"tiny-llama","messages":[{"role":"user","content":[{"type":"text","text":"\\udc00"}]}]}'),
        (TEXT, '{"model":"tiny-llama","max_tokens":2,"prompt":"a\\ud83c"}'),
        (TEXT, '{"model":"tiny-llama","max_tokens":2,"prompt":["a","\\ud83c"]}'),
        (TEXT, '{"model":"tiny-llama","max_tokens":2,"prompt":"a","stop":"\\ud83c"}'),
        (TEXT, '{"model":"tiny\\ud83c","max_tokens":2,"prompt":"a"}'),
        ("/v1/embeddings", '{"model":"tiny-llama","input":"a\\ud83c"}'),
        (CHAT, '{"model":"tiny-llama","messages":[{"role":"user","content":"a"}],"user":"\\ud83c","max_tokens":1}'),
    ],
)
def test_half_a_surrogate_pair_is_a_bad_request(client, tiny_model, path, body):
    answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code in (400, 404), answer.text


def test_a_schema_that_nests_too_deep_is_a_bad_request(client, tiny_model):
    schema = '{"type":"boolean"}'
    for _ in range(200):
        schema = '{"type":"object","properties":{"a":' + schema + '},"required":["a"]}'
    body = json.dumps(SHORT | {"messages": ASKED, "response_format": "HERE"})
    shape = '{"type":"json_schema","json_schema":{"name":"x","schema":' + schema + "}}"
    answer = client.post(CHAT, content=body.replace('"HERE"', shape), headers=JSON)
    assert answer.status_code == 400
    assert "levels" in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_another_content_type_is_named(client, tiny_model, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    answer = client.post(CHAT, content=json.dumps(SHORT | {"messages": ASKED}), headers=headers)
    if answer.status_code != 200:
        assert answer.status_code == 415, answer.text
        assert "application/json" in answer.json()["error"]["message"]
        assert (kind or "Content-Type") in answer.json()["error"]["message"]


def test_codes_are_openais_where_it_has_them(client, chat):
    long = chat([{"role": "user", "content": "word " * 500}])
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
    unknown = client.post(TEXT, json={"model": "gpt-9", "prompt": "a"}).json()["error"]
    assert (unknown["code"], unknown["param"]) == ("model_not_found", "model")
