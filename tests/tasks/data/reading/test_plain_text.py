"""What a row of plain text is: a paragraph, a line, or a piece of one document."""

from itertools import pairwise

import pytest

from tasks.data.chat_lines import chat_lines
from tasks.data.examples import Example
from tasks.data.reading.plain_text import DOCUMENT_ROW_BYTES, PIECES
from tasks.data.reading.source import open_source
from tasks.data.segments import CONTEXT
from tests.tasks.data.reading.test_hostile_texts import memory_below
from tests.tasks.data.reading.written_files import read_examples

WRAPPED = (
    "It was the best of times, it was the worst of\ntimes, it was the age of wisdom, it was the\nage of foolishness."
)
PROGRAM = 'def add(a, b):\n    """Add."""\n    return a + b\n'


@pytest.mark.parametrize(
    ("text", "shape", "rows"),
    [
        ("One.\nTwo.\n\nThree.", "text: a paragraph each", ["One.\nTwo.", "Three."]),
        ("\n\nOne\r\ntwo\r\n \t\r\nThree\r\n", "text: a paragraph each", ["One\ntwo", "Three"]),
        ("A fox came.\r\nIt ate.\r\n", "text: a line each", ["A fox came.", "It ate."]),
        ('He said: "Go!"\nShe went (home.)\n*Why?*\nno end\n\n', "text: a line each", None),
        ("狐が来た。\n食べた。\n", "text: a line each", ["狐が来た。", "食べた。"]),
        (f"{'word ' * 30}\n{'word ' * 40}\n", "text: a line each", ["word " * 30, "word " * 40]),
        (WRAPPED, "text: one document", [WRAPPED]),
        (PROGRAM, "text: one document", [PROGRAM.rstrip("\n")]),
        (
            "Shall I compare thee\nto a summer's day?\n",
            "text: one document",
            ["Shall I compare thee\nto a summer's day?"],
        ),
        ("One line.\n", "text: one document", ["One line."]),
    ],
)
def test_layout_of_a_text_is_told_and_followed(text, shape, rows, tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text(text, "utf-8", newline="")
    source = open_source(path)
    assert (source.file_format, source.shape) == ("text", shape)
    expected = [line for line in text.split("\n") if line] if rows is None else rows
    assert read_examples(path) == [Example(text=row) for row in expected]


def test_document_a_line_of_a_megabyte_is_a_row_each(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("".join(f"This is document {number}.\n" for number in range(50_000)) + "\nLast.\n")
    assert path.stat().st_size > 10**6
    source = open_source(path)
    assert source.shape == "text: a line each"
    rows = [(row.number, row.example.text) for row in source]
    assert rows == [*((n + 1, f"This is document {n}.") for n in range(50_000)), (50_002, "Last.")]


@pytest.mark.parametrize("blank", ["", "\n", "\n\n\n"])
def test_one_long_document_is_cut_at_line_ends_and_loses_nothing(blank, tmp_path):
    path = tmp_path / "rows.txt"
    lines = [f"    call({number}, 'é')\n" for number in range(30_000)]
    lines[20_000:20_000] = [blank, "x" * 100 * DOCUMENT_ROW_BYTES + "\n"]
    path.write_text("".join(lines), "utf-8")
    source = open_source(path)
    assert source.shape == "text: one document"
    rows = list(source)
    assert "".join(row.example.text for row in rows) + "\n" == "".join(lines)
    sizes = sorted(len(row.example.text.encode()) for row in rows)
    piece = path.stat().st_size // PIECES
    assert DOCUMENT_ROW_BYTES < piece < sizes[len(sizes) // 2] <= sizes[-1] <= 2 * piece + 30
    assert [row.number for row in rows][:2] == [1, 1 + rows[0].example.text.count("\n")]


TEXTS = {
    "verse": "".join(f"The {n}th line of a poem,\nwhich goes on and on\n" for n in range(400)),
    "blank lines at the end": "".join(f"The {n}th line,\n" for n in range(900)) + "   \n\t\n",
    "one line": " ".join(f"word{n}" for n in range(9_000)),
    "a line without a space": "狐".join(map(str, range(90_000))),
    "carriage returns": "".join(f"line {n} of many\r\n" for n in range(3_000)),
}


@pytest.mark.parametrize("name", TEXTS)
def test_pieces_of_a_document_know_what_is_beside_them(name, tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text(TEXTS[name], "utf-8", newline="")
    examples = read_examples(path)
    text = TEXTS[name].replace("\r\n", "\n").rstrip("\n\t ")
    assert "".join(example.text for example in examples) == text
    assert open_source(path).shape in ("text: one document", "text: a line each")
    if open_source(path).shape == "text: one document":
        assert len(examples) > 10
    for before, after in pairwise(examples):
        assert (before.after, after.before) == (after.text[:CONTEXT], before.text[-CONTEXT:])
        assert before.links[1] == after.links[0] != 0
    assert (examples[0].before, examples[-1].after) == ("", "")
    assert len({example.content_hash for example in examples}) == len(examples)
    path.write_bytes(b"".join(chat_lines(examples)))
    assert read_examples(path) == examples


def test_fifty_megabytes_of_one_document_are_read_in_little_memory(tmp_path):
    path = tmp_path / "rows.txt"
    with path.open("w") as file:
        file.write("def main():\n")
        for number in range(700_000):
            file.write(f"    call_{number}(with_some, other_arguments, and_more={number})\n")
        file.write("word " * 100_000)
    assert path.stat().st_size > 40 * 2**20
    source, size, previous = open_source(path), 0, ""
    assert source.shape == "text: one document"
    with memory_below(16 * 2**20):
        for row in source:
            assert row.example.before == previous[-CONTEXT:]
            previous = row.example.text
            size += len(previous)
    assert size == path.stat().st_size
