import tracemalloc
from contextlib import contextmanager

import pytest

from tasks.data.examples import DatasetError, Example
from tasks.data.reading.records import MAX_RECORD_BYTES
from tasks.data.reading.source import open_source
from tests.tasks.data.reading.written_files import read_errors, read_examples

ROW = b'{"question": "q", "answer": "a"}\n'
ONE = Example.question("q", "a")


@contextmanager
def memory_below(limit: int):
    """Fail if more than `limit` bytes are held at any one time."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak / 2**20:.0f} MiB were held"


def assert_refused(content, sentence, path):
    """Reading the whole file fails, with a short message that has this sentence."""
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        list(open_source(path))
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            b'{"question": "q", "answer": "a"',
            "is not valid JSON: expecting ',' delimiter at character 32, where it ends",
        ),
        (
            b"{'question': 'q'}",
            "expecting property name enclosed in double quotes at character 2: \"'question': 'q'}\"",
        ),
        (b"[" * 100_000, "nests lists and objects more than 64 deep"),
        (b'{"a":' * 100_000, "nests lists and objects more than 64 deep"),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "nests lists and objects more than 64 deep"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "holds a number of more than 4,300 digits"),
        (b'{"question": "a\0b"}', "invalid control character at character 16"),
        (b'{"question": "na\xefve"}', r"byte 17 of the line (0xef) is not UTF-8; save the file as UTF-8"),
        (b"[1, 2]", 'is a list ([1, 2]); a row is an object such as {"question": "...", "answer": "..."}'),
        (b"5", "is a number (5); a row is an object"),
        (b"null", "is null; a row is an object"),
        (b'{"question": "q"}', "the row has no answer; the columns are 'question'"),
        (b'{"question": "q", "answer": 4}', "answer is a number (4); a text is accepted"),
        (b'{"question": "q", "answer": NaN}', "answer is a number (nan); a text is accepted"),
        (b'{"question": "q", "answer": null}', "answer is null; a text is accepted"),
        (b'{"question": "q", "answer": "\\ud83e"}', "half a surrogate pair at character 0"),
        (b'{"question": "q", "answer": ["' + b"long " * 10_000 + b'"]}', "long l"),
    ],
)
def test_line_that_cannot_be_used_costs_only_itself(line, sentence, tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(ROW + line + b"\n" + ROW)
    read = list(open_source(path))
    assert [row.example for row in read] == [ONE, None, ONE]
    assert sentence in read[1].error
    assert len(read[1].error) < 300


def test_first_line_may_be_the_broken_one(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b'{"question": "q", "ans\n' + ROW)
    assert list(read_errors(path)) == [1]
    assert [row.example for row in open_source(path)][1] == ONE


@pytest.mark.parametrize(
    ("row", "key"),
    [
        (b'{"question": "first", "answer": "a", "question": "q"}', "question"),
        (b'{"question" : "first", "answer" :"a", "question": "q"}', "question"),
        (b'{"question": "a \\":\\" b", "answer": "a", "answer":"b"}', "answer"),
        (b'{"question": "q", "answer": "a", "more": [1, {"id": 1, "id": 2}]}', "id"),
        (b'{"question": "q", "answer": "a", "\\u0061nswer": "b"}', "answer"),
    ],
)
@pytest.mark.parametrize("in_list", [False, True])
def test_key_that_occurs_twice_is_an_error_of_its_row(in_list, row, key, tmp_path):
    path = tmp_path / "rows"
    rows = [ROW.strip(), row, ROW.strip()]
    path.write_bytes(b"[" + b",\n".join(rows) + b"]" if in_list else b"\n".join(rows))
    assert read_errors(path) == {2: f"{'row 2' if in_list else 'the row'} has the key '{key}' twice in one object"}
    assert [row.example for row in open_source(path)] == [ONE, None, ONE]


def test_json_within_a_text_and_spaces_before_colons_repeat_no_key(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(rb'{"question" : "{\"a\": 1, \"a\": 2}", "answer"  : " \"b\" : "}')
    assert read_examples(path) == [Example.question('{"a": 1, "a": 2}', ' "b" : ')]


def test_separators_of_unicode_do_not_end_a_line(tmp_path):
    path = tmp_path / "rows"
    path.write_text('{"question": "one\u2028two\u2029three\x85four", "answer": "a"}', "utf-8")
    assert read_examples(path) == [Example.question("one\u2028two\u2029three\x85four", "a")]


def test_line_that_is_too_long_is_passed_over(tmp_path):
    path = tmp_path / "rows"
    with path.open("wb") as file:
        file.write(ROW + b'{"question": "')
        # Not written, so that it takes no room on the disk.
        file.seek(8 * MAX_RECORD_BYTES, 1)
        file.write(b'"}\n' + ROW)
    with memory_below(3 * MAX_RECORD_BYTES):
        read = list(open_source(path))
    assert [row.example for row in read] == [ONE, None, ONE]
    assert "longer than 16 MiB" in read[1].error


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        (b'[{"question": "', "row 1, at byte 2"),
        (b'[{"question": "q", "answer": "a"}, {"question": "', "row 2, at byte 36"),
        (b'[{"question": [1, "', "is not valid JSON"),
        (
            b'question,answer\nq,"',
            "the record that starts on line 2 is longer than 16 MiB, the most that one row may have; is a quote",
        ),
    ],
)
def test_value_without_an_end_is_not_held_in_memory(start, sentence, tmp_path):
    path = tmp_path / "rows"
    filler = b'x", \n' if b"[1" in start else b"x" * 99 + b" "
    with path.open("wb") as file:
        file.write(start)
        for _ in range(48):
            file.write(filler * (2**20 // len(filler)))
    # The CSV reader of Python takes four bytes for a character, and grows by doubling.
    with memory_below(12 * MAX_RECORD_BYTES), pytest.raises(DatasetError) as caught:
        list(open_source(path))
    assert sentence in str(caught.value)


def test_paragraph_that_is_too_long_is_cut_at_the_ends_of_lines(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"One\n\n" + (b"x" * 9_999 + b"\n") * 4_000 + b"\nTwo\n\n" + b"x" * 2**25 + b"\nsame\n\nThree\n")
    texts, sizes = [], []
    with memory_below(5 * MAX_RECORD_BYTES):
        for row in open_source(path):
            texts.append(row.example.text[:5] if row.example else row.error)
            sizes.append((row.number, len(row.example.text) if row.example else 0))
    too_long = "the line is longer than 16 MiB, the most that one row may have"
    assert texts == ["One", *["xxxxx"] * 3, "Two", too_long, "same", "Three"]
    piece = 1_677
    assert sizes[1:4] == [
        (3, piece * 10_000),
        (3 + piece, piece * 10_000),
        (3 + 2 * piece, (4_000 - 2 * piece) * 10_000 - 1),
    ]
    assert [number for number, _ in sizes[4:]] == [4_004, 4_006, 4_007, 4_009]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[" * 100_000, "row 1 nests lists and objects more than 64 deep"),
        (b'{"a":' * 100_000, "nests lists and objects more than 64 deep"),
        (b"[" + b"[" * 100_000 + b"]" * 100_000 + b"]", "row 1 nests lists and objects more than 64 deep"),
        (b'[{"question": "q", "answer": "a"}', "the JSON is broken at the end of the file: ',' or ']' must follow"),
        (
            b'[{"question": "q", "answer": "a"},',
            "row 2 is not valid JSON on line 1: expecting value at character 1, where it ends",
        ),
        (b'[{"question": "q"} {"question"', "broken at byte 20, on line 1 ('{\"question\"'): ',' or ']' must follow"),
        (
            b'[{"question": "q", "answer" "a"}]',
            "row 1 is not valid JSON on line 1: expecting ':' delimiter at character 28",
        ),
        (b'[{"question": "q"}]\n{"question": "q"}', "more follows after the end of the JSON, at byte 21"),
        (b'[{"question": "na\xefve"}]', "byte 18 of the file (0xef) is not UTF-8"),
        (b'[{"question": "na\xc3', "byte 18 of the file (0xc3) is not UTF-8"),
        (b'[{"a": ' + b"9" * 5_000 + b"}]", "row 1 holds a number of more than 4,300 digits"),
    ],
)
def test_broken_json_file_is_refused_with_the_place(content, sentence, tmp_path):
    assert_refused(content, sentence, tmp_path / "rows")


def test_values_in_a_json_list_that_are_no_rows(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b'[5, {"question": "q", "answer": "a"}, [1], "x", -1.5e3]')
    assert list(read_errors(path)) == [1, 3, 4, 5]
    assert [row.example for row in open_source(path)][1] == ONE


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'question,answer\nq,a\nq,"a\nb,c\n' + b"d,e\n" * 1000, "starts on line 3 has a quote that is not closed"),
        (
            b'question,answer\nq,"a" b\n',
            "the record that starts on line 2 cannot be read at line 2: ',' expected after",
        ),
        (
            b"question,answer\n" + b"q,a\n" * 40_000 + b"na\xefve,a\n",
            "line 40002: byte 3 of the line (0xef) is not UTF-8",
        ),
        (b"question,answer\n" + b"q,a\n" * 40_000 + b"q,\0\n", "line 40002 holds a NUL byte"),
        (b"question,answer,question\nq,a,b\n", "names the column 'question' twice"),
        (b",".join(b"c%d" % number for number in range(100_000)) + b"\n", "has 100000 columns; at most 1000"),
    ],
)
def test_csv_that_cannot_be_read_on_is_refused_with_the_line(content, sentence, tmp_path):
    assert_refused(content, sentence, tmp_path / "rows")


def test_record_with_a_hundred_thousand_cells_costs_only_itself(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"question,answer\nq,a\n" + b"," * 99_999 + b"\nq,a\n")
    assert read_errors(path) == {3: "the record has 100000 cells and the header 2"}


def test_long_answer_in_a_cell_is_read(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b'question,answer\nq,"' + b"x\n" * 500_000 + b'"\nq,a\n')
    assert read_examples(path) == [Example.question("q", "x\n" * 500_000), ONE]
    assert [row.number for row in open_source(path)] == [2, 500_003]


@pytest.mark.parametrize("bad", [b"na\xefve\n", b"a\0b\n"])
def test_plain_text_that_turns_out_to_be_none_is_refused_with_the_line(bad, tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"A long text.\n" * 10_000 + bad)
    with pytest.raises(DatasetError, match="line 10001"):
        list(open_source(path))
