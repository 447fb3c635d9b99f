import itertools
import subprocess
import sys

import pytest

from tasks.data.examples import DatasetError, Example, Message


def test_content_hash_is_the_same_in_another_process():
    example = Example.question("naïve café 🦊?", "a\nb")
    program = (
        "from tasks.data.examples import Example\n"
        f"print(Example.question({example.prompt!r}, {example.answer!r}).content_hash)"
    )
    other = subprocess.run([sys.executable, "-X", "utf8", "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == example.content_hash
    assert len(example.content_hash) == 64


def test_content_hash_distinguishes_rows_whose_characters_run_together():
    rows = [
        Example.question("a", "bc"),
        Example.question("ab", "c"),
        Example.question("", "abc"),
        Example(text="abc"),
        Example.question('a", "b', "c"),
        Example.question("a", 'b", "c'),
        Example.question("\\ud83e", "c"),
        Example.question("🦊", "c"),
    ]
    for one, other in itertools.combinations(rows, 2):
        assert one.content_hash != other.content_hash


@pytest.mark.parametrize(
    ("messages", "text", "reason"),
    [
        ((), None, "either a conversation or a plain text"),
        ((Message("assistant", "a"),), "text", "either a conversation or a plain text"),
        ((Message("assistant", "a"), Message("user", "q")), None, "the last message is the user's"),
        ((Message("user", "q"), Message("assistant", "a", learned=False)), None, "nothing to learn"),
    ],
)
def test_a_row_without_anything_to_learn_is_refused(messages, text, reason):
    with pytest.raises(DatasetError, match=reason):
        Example(messages, text)


@pytest.mark.parametrize(
    "example",
    [
        Example.question("naïve?", "🦊\n"),
        Example(text=""),
        Example(
            (
                Message("user", "q", name="Ann"),
                Message("assistant", "", learned=False, tool_calls='[{"a":1}]'),
                Message("tool", "1", tool_call_id="x"),
                Message("assistant", "a"),
            ),
            tools="[]",
        ),
    ],
)
def test_canonical_json_keeps_everything(example):
    again = Example.from_json(example.as_json())
    assert again == example
    assert again.content_hash == example.content_hash


@pytest.mark.parametrize(
    ("prompt", "answer", "name"), [("ab\ud83e", "", "user's content"), ("", "ab\ud83e", "assistant's content")]
)
def test_half_a_surrogate_pair_is_refused_with_its_place(prompt, answer, name):
    with pytest.raises(DatasetError, match=f"the {name} holds half a surrogate pair at character 2"):
        Example.question(prompt, answer)
