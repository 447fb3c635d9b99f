"""What a row says its turns, or all of it, count in the loss."""

import json
import math

import pytest

from tasks.data.chat_lines import chat_line
from tasks.data.examples import Example, Message
from tasks.data.reading.source import open_source
from tests.tasks.data.reading.written_files import read_errors, read_examples, user, write_rows

RANGE = "0, or a number from 1e-06 to 1,000,000, is accepted"


def chat(answer, question=None, **row):
    return {"messages": [{"role": "user", "content": "q"} | (question or {}), {"role": "assistant"} | answer]} | row


def written(rows, path, file_format="jsonl"):
    write_rows(rows, file_format, path)
    return path


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"weight": 0.25}, Message("assistant", "a", weight=0.25)),
        ({"loss_weight": 0.25}, Message("assistant", "a", weight=0.25)),
        ({"weight": 2, "loss_weight": 2.0}, Message("assistant", "a", weight=2.0)),
        ({"weight": 1e-6}, Message("assistant", "a", weight=1e-6)),
        ({"weight": 1.0}, Message("assistant", "a")),
        ({"weight": True}, Message("assistant", "a")),
        ({"weight": None, "loss_weight": None}, Message("assistant", "a")),
    ],
)
@pytest.mark.parametrize("names", [("messages", "role", "content"), ("conversations", "from", "value")])
def test_turn_has_a_weight(names, turn, message, tmp_path):
    turns, role, content = names
    said = {"user": "user" if role == "role" else "human", "assistant": "assistant" if role == "role" else "gpt"}
    row = {turns: [{role: said["user"], content: "q"}, {role: said["assistant"], content: "a", **turn}]}
    (example,) = read_examples(written([row], tmp_path / "rows"))
    assert example == Example((user("q"), message))
    assert Example.from_json(example.as_json()) == example


def test_turn_of_weight_0_is_not_learned_and_one_of_a_call_has_its_own(tmp_path):
    call = {"function": {"name": "add", "arguments": {}}}
    turns = [
        {"role": "assistant", "content": "no", "loss_weight": 0},
        {"role": "user", "content": "q"},
        {"role": "assistant", "tool_calls": [call], "weight": 3},
    ]
    (example,) = read_examples(written([{"messages": turns}], tmp_path / "rows"))
    assert [(message.learned, message.weight) for message in example.messages] == [(False, 1), (True, 1), (True, 3)]


@pytest.mark.parametrize(
    ("turn", "sentence"),
    [
        ({"weight": -0.5}, f"messages[1].weight is a number (-0.5); {RANGE}"),
        ({"weight": math.nan}, f"messages[1].weight is a number (nan); {RANGE}"),
        ({"loss_weight": math.inf}, f"messages[1].loss_weight is a number (inf); {RANGE}"),
        ({"weight": 10**400}, f"messages[1].weight is a number ({str(10**400)[:5]}"),
        ({"weight": 1e-9}, f"messages[1].weight is a number (1e-09); {RANGE}"),
        ({"weight": "0.5"}, f"messages[1].weight is a text ('0.5'); {RANGE}"),
        ({"weight": [1]}, f"messages[1].weight is a list ([1]); {RANGE}"),
        ({"weight": 0}, "every assistant message has weight 0, so there is nothing to learn"),
        ({"weight": 1, "loss_weight": 2}, "messages[1] has different numbers in weight and loss_weight; one is"),
    ],
)
def test_what_is_no_weight_is_an_error_of_its_row(turn, sentence, tmp_path):
    rows = [chat({"content": "a"}), chat({"content": "a"} | turn)]
    (number, error), *others = read_errors(written(rows, tmp_path / "rows")).items()
    assert (number, others) == (2, [])
    assert sentence in error


@pytest.mark.parametrize(("weight", "is_accepted"), [(0, True), (1, True), (None, True), (0.5, False), (2, False)])
def test_turn_that_is_never_learned_may_say_so_but_has_no_other_weight(weight, is_accepted, tmp_path):
    path = written([chat({"content": "a"}, question={"weight": weight})], tmp_path / "rows")
    if is_accepted:
        assert read_examples(path) == [Example.question("q", "a")]
    else:
        sentence = f"messages[0].weight is {weight:g}, and the turn is the user's, which is not learned"
        assert sentence in read_errors(path)[1]


@pytest.mark.parametrize("file_format", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize(
    "row",
    [
        chat({"content": "a"}),
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"instruction": "q", "output": "a"},
        {"prompt": "q", "completion": "a"},
        {"question": "q", "answer": "a"},
        {"text": "t"},
    ],
)
def test_row_of_any_shape_has_a_weight(row, file_format, tmp_path):
    rows = [row | {"loss_weight": 0.5}, row | {"loss_weight": 1.0}]
    half, full = read_examples(written(rows, tmp_path / "rows", file_format))
    plain = Example(text="t") if "text" in row else Example.question("q", "a")
    assert full == plain
    assert (half.messages, half.text, half.weight) == (plain.messages, plain.text, 0.5)
    assert len({half.content_hash, full.content_hash}) == 2


def test_column_weight_is_the_rows_beside_turns_only(tmp_path):
    rows = [chat({"content": "a"})] * 1_500 + [chat({"content": "a"}, weight=0.5)]
    assert [example.weight for example in read_examples(written(rows, tmp_path / "chat"))] == [1] * 1_500 + [0.5]
    path = written([{"question": "How heavy?", "answer": "70 kg", "weight": 70}], tmp_path / "heavy")
    assert read_examples(path) == [Example.question("How heavy?", "70 kg")]
    assert open_source(path).ignored_columns == ["weight"]
    (example,) = read_examples(path, {"loss_weight": "weight"})
    assert example.weight == 70


@pytest.mark.parametrize(
    ("weight", "sentence"),
    [
        (0, "loss_weight is 0, so there is nothing to learn; leave the row out"),
        (-1, f"loss_weight is a number (-1); {RANGE}"),
        ("heavy", f"loss_weight is a text ('heavy'); {RANGE}"),
    ],
)
def test_what_is_no_weight_of_a_row_is_its_error(weight, sentence, tmp_path):
    path = written([{"text": "a", "loss_weight": weight}], tmp_path / "rows")
    assert read_errors(path)[1] == sentence


def test_weights_are_written_as_they_came_in(tmp_path):
    row = chat({"content": "a", "weight": 0.5}, loss_weight=3)
    (example,) = read_examples(written([row], tmp_path / "rows"))
    assert json.loads(chat_line(example)) == row
    (tmp_path / "text").write_bytes(chat_line(Example(text="t", weight=0.1)))
    assert read_examples(tmp_path / "text") == [Example(text="t", weight=0.1)]
