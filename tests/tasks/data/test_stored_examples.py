import pytest

from tasks.data.examples import Example
from tasks.data.stored_examples import read_examples, write_examples

EXAMPLES = [Example.question("naïve?\nyes", "🦊\u2028line"), Example(text="plain")]


def test_examples_survive_a_round_trip(tmp_path):
    write_examples(EXAMPLES, tmp_path / "folder" / "rows.jsonl")
    assert read_examples(tmp_path / "folder" / "rows.jsonl") == EXAMPLES


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_examples(EXAMPLES, path)
    with pytest.raises(AttributeError):
        write_examples([EXAMPLES[1], "no example"], path)  # type: ignore[list-item]
    assert read_examples(path) == EXAMPLES


def test_a_file_from_before_there_were_conversations_is_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"kind": "instruction", "prompt": "na\\u00efve?", "answer": "a\\nb"}\n', encoding="utf-8")
    assert read_examples(path) == [Example.question("naïve?", "a\nb")]
