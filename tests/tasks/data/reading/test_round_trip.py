import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.examples import Example
from tasks.data.reading.source import open_source
from tests.tasks.data.reading.written_files import FORMATS, read_examples, row_in_shape, write_rows

SHAPES = ("messages", "conversations", "alpaca", "prompt/completion", "question/answer")

# Anything that UTF-8 can hold, with what formats trip over more often than chance would have it; NUL has its own tests.
texts = st.lists(
    st.one_of(
        st.sampled_from(
            ['"', '""', "\n", "\r\n", "\r", "\u2028", "\x85", "\ufeff", ",", ";", "\t", "\\", "\\u0041", "🦊"]
        ),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    ),
    max_size=5,
).map("".join)
conversations = st.lists(st.tuples(texts, texts), min_size=1, max_size=4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("file_format", [name for name in FORMATS if name != "parquet"])
@settings(max_examples=40, deadline=None)
@given(pairs=conversations)
def test_same_conversation_is_read_from_every_format_and_shape(file_format, shape, pairs):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        write_rows([row_in_shape(shape, *pair) for pair in pairs], file_format, path)
        source = open_source(path)
        assert (source.file_format, source.shape, source.ignored_columns) == (file_format, shape, [])
        assert read_examples(path) == [Example.question(*pair) for pair in pairs]


@settings(max_examples=8, deadline=None)
@given(shape=st.sampled_from(SHAPES), pairs=conversations)
def test_same_conversation_is_read_from_parquet(shape, pairs):
    # Fewer of them: a process starts for each file.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        write_rows([row_in_shape(shape, *pair) for pair in pairs], "parquet", path)
        assert read_examples(path) == [Example.question(*pair) for pair in pairs]


@pytest.mark.parametrize("file_format", FORMATS)
def test_plain_text_is_read_from_every_format(file_format, tmp_path):
    paragraphs = ["One, two.\n  Indented “line”.", "naïve café 🦊\u2028still the same line", "{not JSON}"]
    as_text, as_rows = tmp_path / "text", tmp_path / "rows"
    as_text.write_text("\n\n".join(paragraphs) + "\n", "utf-8")
    write_rows([{"text": paragraph} for paragraph in paragraphs], file_format, as_rows)
    assert read_examples(as_text) == read_examples(as_rows) == [Example(text=paragraph) for paragraph in paragraphs]


def test_source_can_be_read_again(tmp_path):
    write_rows([row_in_shape("alpaca", "q", "a")] * 3, "jsonl", tmp_path / "rows")
    source = open_source(tmp_path / "rows")
    assert list(source) == list(source)
    assert [row.number for row in source] == [1, 2, 3]
