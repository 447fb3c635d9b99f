"""What a row of plain text is: a paragraph, a line, or a piece of one document."""

import pytest

from tasks.data.examples import Example
from tasks.data.reading.plain_text import DOCUMENT_ROW_BYTES
from tasks.data.reading.source import open_source
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
    assert sizes[-2] <= DOCUMENT_ROW_BYTES < sizes[-1]
    assert sizes[len(sizes) // 2] > 0.9 * DOCUMENT_ROW_BYTES
    assert [row.number for row in rows][:2] == [1, 1 + rows[0].example.text.count("\n")]
