import gzip
import json
import os
import pickle
import zipfile

import pytest

from tasks.data.examples import DatasetError, Example
from tasks.data.reading.formats import detect
from tasks.data.reading.shapes import COLUMN_NAMES
from tasks.data.reading.source import open_source
from tests.tasks.data.reading.written_files import read_errors, read_examples

ROW = '{"question": "q", "answer": "a"}'
ONE = [Example.question("q", "a")]


@pytest.mark.parametrize(
    ("content", "file_format"),
    [
        (ROW, "jsonl"),
        (f"\n\n{ROW}\n", "jsonl"),
        (f"{ROW}\r\n{ROW}\r\n", "jsonl"),
        ('{"question": "q",\n' + ROW, "jsonl"),
        ("{'question': 'q', 'answer': 'a'}", "jsonl"),
        ('{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}', "jsonl"),
        (f"[{ROW}]", "json"),
        (f"\n [\n {ROW}\n]", "json"),
        ("[1, 2]", "json"),
        ("[]", "json"),
        (f'{{"version": 1, "data": [{ROW}]}}', "json"),
        (f'{{\n"version": 1,\n"data": [\n{ROW}\n]}}', "json"),
        ("question,answer\nq,a\n", "csv"),
        ("question;answer\nq, r;a, b\n", "csv"),
        ("question\tanswer\nq\ta\n", "csv"),
        ("question|answer\nq|a\n", "csv"),
        ('"text"\n"one"\n', "csv"),
        ("Frage,Antwort\nq,a\n", "csv"),
        ("Hello, my friend.\nHow are you, today?\n", "text"),
        ("Hello\n", "text"),
        ("[1] A footnote.\n", "text"),
        ("[[Image: a fox]]\n", "text"),
        ("{x | x > 1} is a set.\n", "text"),
        ("PK is a name, too\n", "text"),
    ],
)
def test_format_is_detected_by_the_content(content, file_format, tmp_path):
    path = tmp_path / "data.exe"
    path.write_text(content, "utf-8")
    assert detect(path, COLUMN_NAMES) == file_format
    path.write_text("\ufeff" + content, "utf-8")
    assert detect(path, COLUMN_NAMES) == file_format


@pytest.mark.parametrize(
    "content", [f"{ROW}\n", f"[{ROW}]", f'{{"n": [1], "data": [{ROW}]}}', "question,answer\nq,a\n"]
)
def test_byte_order_mark_and_windows_line_ends_change_nothing(content, tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode())
    assert read_examples(path) == ONE


def _zip_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", b"\0" * 2**24)


def _gzip_bomb(path):
    path.write_bytes(gzip.compress(b"\0" * 2**24))


def _workbook(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (_zip_bomb, "this is a zip file; send it uncompressed"),
        (_gzip_bomb, "this is a gzip file; send it uncompressed"),
        (_workbook, "an Excel workbook; export it as CSV"),
        (lambda path: path.write_bytes(pickle.dumps(ROW)), "a Python pickle, which is never read"),
        (lambda path: path.write_bytes(b"%PDF-1.7\n"), "a PDF file"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b" \r\n\n" * 50_000), "holds only blank lines"),
        (lambda path: path.write_text(ROW, "utf-16"), "the text is in UTF-16; save it as UTF-8"),
        (lambda path: path.write_text("Hello, fox", "utf-16-le"), "the text is in UTF-16"),
        (lambda path: path.write_text("Hello, fox", "utf-16-be"), "the text is in UTF-16"),
        (lambda path: path.write_bytes(b"Hello\0fox"), "byte 6 is NUL, so this is no text"),
        (lambda path: path.write_bytes(b"One\nna\xefve\n"), r"byte 7 of the file, on line 2, \(0xef\) is not UTF-8"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.symlink_to("/etc/hostname"), "is a symbolic link"),
        (os.mkfifo, "is no plain file"),
        (lambda path: None, "cannot be read: No such file"),
        (lambda path: path.write_text("[]"), "the file holds no rows"),
        (lambda path: path.write_text("question,answer\n"), "the file holds no rows"),
        (lambda path: path.write_text('{"a": 1}\n{"b": 2}\n'), "no shape fits: the columns are 'a', 'b'. Accepted are"),
        (
            lambda path: path.write_text('{"a"}\n{"b"}\n'),
            "none of the first rows can be read; number 1: the row is not valid",
        ),
        (lambda path: path.write_text('{"a": 1,\n"b": 2}'), "one JSON object without a list of rows"),
    ],
)
def test_file_that_is_no_data_set_is_named(write, sentence, tmp_path):
    path = tmp_path / "rows"
    write(path)
    with pytest.raises(DatasetError, match=sentence):
        open_source(path)


def test_object_with_two_lists_of_rows_is_refused(tmp_path):
    path = tmp_path / "rows"
    path.write_text(f'{{"train": [{ROW}], "test": [{ROW}]}}')
    with pytest.raises(DatasetError, match="two lists of rows, 'train' and 'test'"):
        list(open_source(path))


def test_row_on_a_line_of_its_own_counts_from_the_first_line(tmp_path):
    path = tmp_path / "rows"
    path.write_text(f"\n{ROW}\n\n{ROW}\n")
    assert [row.number for row in open_source(path)] == [2, 4]


def test_record_of_many_lines_has_the_number_of_its_first(tmp_path):
    path = tmp_path / "rows"
    path.write_text('question,answer\nq,"a\n\nb"\n\nq2,a2\nonly one cell\n')
    assert [(row.number, row.example is not None) for row in open_source(path)] == [(2, True), (6, True), (7, False)]
    assert read_errors(path) == {7: "the record has 1 cells and the header 2"}


def test_paragraph_has_the_number_of_its_first_line(tmp_path):
    path = tmp_path / "rows"
    path.write_text("\n\nOne\r\ntwo\n \t\nThree")
    assert [(row.number, row.example.text) for row in open_source(path)] == [(3, "One\ntwo"), (6, "Three")]


def test_columns_that_are_not_needed_are_named_and_harmless(tmp_path):
    path = tmp_path / "rows"
    path.write_text('{"id": 10000000000000000000000000, "question": "q", "score": NaN, "answer": "a"}')
    assert open_source(path).ignored_columns == ["id", "score"]
    assert read_examples(path) == ONE


def test_csv_of_pandas_with_its_nameless_index(tmp_path):
    path = tmp_path / "rows"
    path.write_text(",question,answer\n0,q,a\n")
    assert open_source(path).ignored_columns == ["(column 1)"]
    assert read_examples(path) == ONE


def test_rows_of_a_json_file_longer_than_what_is_read_at_once(tmp_path):
    path = tmp_path / "rows"
    rows = [{"question": "é🦊" * (number % 977), "answer": f"{number}"} for number in range(3_000)]
    path.write_text(json.dumps({"about": "x" * 100, "data": rows}, ensure_ascii=False), "utf-8")
    assert path.stat().st_size > 4 * 2**20
    assert read_examples(path) == [Example.question(row["question"], row["answer"]) for row in rows]
