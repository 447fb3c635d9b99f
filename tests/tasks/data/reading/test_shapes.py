import json

import pytest

from tasks.data.examples import DatasetError, Example, Message
from tasks.data.reading.shapes import Shape, shape_of, to_example
from tests.tasks.data.reading.written_files import assistant, user

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"b": 2, "a": 1}'}}
CANONICAL_CALL = json.dumps([CALL], sort_keys=True, separators=(",", ":"))
"""The arguments stay the text that they were."""
WITHOUT_ID = '[{"function":{"arguments":{"a":1,"b":2},"name":"add"},"type":"function"}]'
TOOLS = [{"type": "function", "function": {"name": "add"}}]


def _example(row: dict, mapping: dict[str, str] | None = None) -> Example:
    return to_example(row, shape_of(list(row), mapping))


@pytest.mark.parametrize(
    ("columns", "shape"),
    [
        (["text", "answer", "question", "messages"], "messages"),
        (["system", "conversations", "instruction", "output"], "conversations"),
        (["instruction", "input", "output", "text"], "alpaca"),
        (["prompt", "completion"], "prompt/completion"),
        (["prompt", "response"], "prompt/completion"),
        (["question", "answer", "text"], "question/answer"),
        (["text", "label"], "text"),
    ],
)
def test_first_shape_that_fits_is_taken(columns, shape):
    assert shape_of(columns).name == shape


def test_mapping_names_the_columns_and_narrows_the_choice():
    columns = ["Frage", "Antwort", "text"]
    mapping = {"question": "Frage", "answer": "Antwort"}
    assert shape_of(columns).name == "text"
    assert shape_of(columns, mapping).name == "question/answer"
    assert _example({"Frage": "q", "Antwort": "a", "text": "t"}, mapping) == Example.question("q", "a")
    assert _example({"prompt": "q", "reply": "a"}, {"response": "reply"}) == Example.question("q", "a")


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ({"query": "Frage"}, "'query' is no field; the fields are answer, completion, conversations"),
        ({"question": "Fragen"}, "there is no column 'Fragen' for question; the columns are 'Frage', 'Antwort'"),
        (
            {"question": "Frage"},
            "no shape fits: the columns are 'Frage', 'Antwort'. Accepted are messages; conversations;",
        ),
    ],
)
def test_mapping_that_cannot_be_is_refused(mapping, sentence):
    with pytest.raises(DatasetError, match=sentence):
        shape_of(["Frage", "Antwort"], mapping)


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"instruction": "Add.", "input": "1 and 2", "output": "3"}, [user("Add.\n\n1 and 2"), assistant("3")]),
        ({"instruction": "Add.", "output": " "}, [user("Add."), assistant(" ")]),
        (
            {"instruction": "q2", "output": "a2", "system": "s", "history": [["q1", "a1"]]},
            [Message("system", "s"), user("q1"), assistant("a1"), user("q2"), assistant("a2")],
        ),
        (
            {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
            [user("q"), assistant("a")],
        ),
        (
            {
                "prompt": [
                    {"role": "user", "content": "q1"},
                    {"role": "assistant", "content": "a1"},
                    {"role": "user", "content": "q2"},
                ],
                "completion": "a2",
            },
            [user("q1"), assistant("a1", learned=False), user("q2"), assistant("a2")],
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "1 + 2?"},
                    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1, "b": 2}}'},
                    {"from": "observation", "value": "3"},
                    {"from": "gpt", "value": "3."},
                ],
                "system": "s",
            },
            [
                Message("system", "s"),
                user("1 + 2?"),
                assistant(None, tool_calls=WITHOUT_ID),
                Message("tool", "3"),
                assistant("3."),
            ],
        ),
        (
            {
                "conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
                "system": None,
            },
            [user("q"), assistant("a")],
        ),
        (
            {
                "messages": [
                    {"role": "developer", "content": "s"},
                    {
                        "role": "user",
                        "name": "Ann",
                        "content": [{"type": "text", "text": "1 "}, {"type": "text", "text": "+ 2?"}],
                    },
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "content": "3", "tool_call_id": "c1"},
                    {"role": "assistant", "content": "no", "weight": 0},
                    {"role": "assistant", "content": "3.", "weight": 1},
                ]
            },
            [
                Message("system", "s"),
                Message("user", "1 + 2?", name="Ann"),
                assistant(None, tool_calls=CANONICAL_CALL),
                Message("tool", "3", tool_call_id="c1"),
                assistant("no", learned=False),
                assistant("3."),
            ],
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "1 + 2?", "weight": 0, "tool_calls": None},
                    {
                        "role": "assistant",
                        "content": "",
                        "function_call": {"name": "add", "arguments": {"b": 2, "a": 1}},
                    },
                    {"role": "function", "name": "add", "content": "3"},
                    {"role": "assistant", "content": "3."},
                ]
            },
            [user("1 + 2?"), assistant("", tool_calls=WITHOUT_ID), Message("tool", "3", name="add"), assistant("3.")],
        ),
    ],
)
def test_row_becomes_its_conversation(row, messages):
    assert _example(row) == Example(tuple(messages))
    if "messages" in row:
        assert _example({"messages": json.dumps(row["messages"])}) == Example(tuple(messages))


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
@pytest.mark.parametrize("row", [{"question": "q", "answer": "a"}, {"messages": '[{"from": "gpt", "value": "a"}]'}])
def test_tools_are_kept(row, tools):
    assert _example(row | {"tools": tools}).tools == '[{"function":{"name":"add"},"type":"function"}]'
    assert _example(row | {"tools": []}).tools is None
    # As ShareGPT has them: requests for answers name them in OpenAI's format.
    assert _example(row | {"tools": [{"name": "add"}]}).tools == '[{"function":{"name":"add"},"type":"function"}]'
    assert _example(row | {"tools": [{"type": "web_search"}]}).tools == '[{"type":"web_search"}]'


def _said(**turn):
    return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"} | turn]}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"messages": []}, r"messages is a list (\[\]); a list with at least one message is accepted"),
        ({"messages": "hello"}, "messages is not valid JSON: expecting value at character 1: 'hello'"),
        ({"messages": ["hello"]}, r"messages[0] is a text ('hello'); an object with role and content is accepted"),
        ({"messages": [{"content": "a"}]}, "messages[0] has neither role nor from: {'content': 'a'}"),
        (
            _said(role="bot"),
            "messages[1].role is a text ('bot'); one of system, developer, user, assistant, tool, function",
        ),
        (_said(role=["user"]), "messages[1].role is a list (['user'])"),
        (_said(role="user"), "the last message is the user's; it must be the assistant's"),
        (_said(weight=0), "every assistant message has weight 0"),
        (_said(content=None), "messages[1].content is null; a text or a list of text parts is accepted"),
        (_said(content=[{"type": "image_url"}]), "messages[1].content[0] is an object ({'type': 'image_url'})"),
        (_said(name=5), "messages[1].name is a number (5); a text is accepted"),
        (_said(tool_calls="add"), "messages[1].tool_calls is a text ('add'); a list of calls is accepted"),
        (_said(tool_calls=[{"name": "add"}]), "messages[1].tool_calls[0] is an object ({'name': 'add'})"),
        (
            _said(tool_calls=[{"function": {"name": "f", "arguments": "[1"}}]),
            "tool_calls[0].arguments is not valid JSON",
        ),
        (_said(tool_calls=[{"function": {"name": "f", "arguments": "[1]"}}]), "arguments is a list ([1]); an object"),
        (
            _said(tool_calls=[{"function": {"name": "f", "arguments": '{"a": NaN}'}}]),
            "holds a number (nan), which JSON",
        ),
        (
            _said(tool_calls=[{"function": {"name": "f", "arguments": '{"a": 1e999}'}}]),
            "holds a number (inf), which JSON",
        ),
        (_said() | {"tools": "add"}, "tools is not valid JSON"),
        (_said() | {"tools": ["add"]}, "tools is a list (['add']); a list of tools, each an object, is accepted"),
        (
            {"conversations": [{"from": "bing", "value": "a"}]},
            "conversations[0].from is a text ('bing'); one of system,",
        ),
        ({"conversations": [{"from": "gpt", "value": 5}]}, "conversations[0].value is a number (5)"),
        ({"conversations": [{"from": "function_call", "value": "add"}]}, "conversations[0].value is not valid JSON"),
        ({"instruction": "q", "output": "a", "history": [["q"]]}, "a list of [question, answer] is accepted"),
        ({"instruction": "q", "output": "a", "input": 5}, "input is a number (5); a text is accepted"),
        ({"prompt": {"a": "q"}, "completion": "a"}, "prompt is an object ({'a': 'q'}); a text is accepted"),
        ({"question": True, "answer": "a"}, "question is a truth value (True); a text is accepted"),
        (
            {"conversations": [{"from": "system", "value": "s"}, {"from": "gpt", "value": "a"}], "system": "other"},
            "the row has two system messages, one in system; keep one",
        ),
    ],
)
def test_row_that_does_not_fit_names_the_field_and_what_is_accepted(row, sentence):
    with pytest.raises(DatasetError) as caught:
        _example(row)
    assert sentence.replace("\\", "") in str(caught.value)


def test_number_of_any_size_in_a_call_is_kept():
    big = 12345678901234567890123456789
    calls = [{"function": {"name": "f", "arguments": f'{{"id": {big}}}'}}]
    assert str(big) in _example(_said(tool_calls=calls)).messages[1].tool_calls


def test_field_that_a_row_lacks_is_named_by_its_column():
    shape = Shape("question/answer", {"question": "Frage", "answer": "Antwort", "system": "system", "tools": "tools"})
    with pytest.raises(DatasetError, match="the row has no Antwort; the columns are 'Frage', 'other'"):
        to_example({"Frage": "q", "other": "a"}, shape)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_kept_by_whichever_name_it_has(field):
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4", field: "add them"}]
    assert _example({"messages": turns}) == Example((user("2+2?"), assistant("4", reasoning="add them")))


def test_two_different_reasonings_are_refused():
    answer = {"role": "assistant", "content": "4", "reasoning": "add", "thinking": "count"}
    with pytest.raises(
        DatasetError, match=r"messages\[1\] has different texts in reasoning and thinking; one is accepted"
    ):
        _example({"messages": [{"role": "user", "content": "2+2?"}, answer]})


@pytest.mark.parametrize("call", [{"tool_calls": [CALL]}, {"function_call": {"name": "add", "arguments": "{}"}}])
@pytest.mark.parametrize("content", [{}, {"content": None}])
def test_a_turn_that_only_calls_needs_no_content(call, content):
    turns = [{"role": "user", "content": "1 + 2?"}, {"role": "assistant", **content, **call}]
    *_, last = _example({"messages": turns}).messages
    assert last.content is None
    assert last.tool_calls is not None


def test_a_turn_without_anything_is_refused():
    with pytest.raises(
        DatasetError, match=r"messages\[1\].content is null; a text or a list of text parts is accepted"
    ):
        _example({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": None}]})


@pytest.mark.parametrize("key", ["text", "value"])
def test_content_parts_are_joined(key):
    parts = [{"type": "text", key: "a"}, {"type": "text", key: "b"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "c"}]
    assert _example({"messages": turns}) == Example.question("ab", "c")
