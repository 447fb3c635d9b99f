"""What a file holds where its name, its first line or its sender promised something else."""

import json

import pytest

from tasks.data.examples import DatasetError, Example
from tasks.data.reading.source import open_source
from tests.tasks.data.reading.written_files import read_errors, read_examples

ROW = '{"question": "q", "answer": "a"}'
ONE = Example.question("q", "a")


@pytest.mark.parametrize(
    "content",
    [
        'sep=;\nquestion;answer\n"q";"a\n\nb"\nq;a\n',
        'sep=,\nquestion,answer\nq,"a\n\nb"\nq,a\n',
        'sep=\t\r\nquestion\tanswer\r\nq\t"a\n\nb"\r\nq\ta\r\n',
        'sep=\\t\nquestion\tanswer\nq\t"a\n\nb"\nq\ta\n',
        '"sep=;"\nquestion;answer\nq;"a\n\nb"\nq;a\n',
        '\ufeffSEP=^\nquestion^answer\nq^"a\n\nb"\nq^a\n',
        'sep=;\nanswer,1;question,1\n"a\n\nb";q\na;q\n',
    ],
)
def test_first_line_of_excel_declares_the_delimiter(content, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(content, "utf-8", newline="")
    columns = {"question": "question,1", "answer": "answer,1"} if "question,1" in content else None
    source = open_source(path, columns)
    assert (source.file_format, source.shape, list(source.warnings)) == ("csv", "question/answer", [])
    assert read_examples(path, columns) == [Example.question("q", "a\n\nb"), ONE]
    assert [row.number for row in source] == [3, 6]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            f"// export\n[{ROW}]",
            "not valid JSON on line 1: JSON has no comments, and one starts at character 1: '// ex",
        ),
        (f"\n/* an\nexport */\n[{ROW}]", "on line 2: JSON has no comments, and one starts at character 1: '/* an"),
        (f"# export\n# of today\n[\n{ROW}]", "on line 1: JSON has no comments, and one starts at character 1: '# exp"),
        (f'// export\n{{\n"data": [{ROW}]}}', "on line 1: JSON has no comments"),
        (f"[\n// first\n{ROW}]", "row 1 is not valid JSON on line 2: JSON has no comments"),
        (f"[\n{ROW} // first\n]", "on line 2 ('// first\\n]', a comment, which JSON does not have)"),
        (f"[\n{ROW},\n]", "a comma stands after the last row, before the bracket at byte 37, on line 3 (']'); remove"),
        ('{\n"a": 1\n},\n{\n"a": 2\n}', "another JSON object follows the first, at byte 11, on line 3"),
        ("5\n", "the file is a number (5); send a list of objects"),
    ],
)
def test_json_file_with_what_json_does_not_have_is_refused_with_the_line(content, sentence, tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(DatasetError) as caught:
        list(open_source(path))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows"])
@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("// export", "the row is a comment ('// export'), and JSON has no comments; remove it"),
        ("# export", "the row is a comment ('# export'), and JSON has no comments; remove it"),
        (f"{ROW},", "the row ends in a comma, which JSON lines do not have between the rows; remove the comma"),
        (f"{ROW} // first", "the row is not valid JSON: JSON has no comments, and one starts at character 34"),
        ('stion": "q", "answer": "a"}', "the row is not valid JSON: expecting value at character 1"),
        ('question", "answer": "a"}', "the row is not valid JSON: expecting value at character 1"),
        ("a line of a log, which was on the same output", "the row is not valid JSON: expecting value"),
        ('{"question": "q", "ans', "the row is not valid JSON: unterminated string"),
        ('"text"', "the row is a text ('text'); a row is an object"),
    ],
)
@pytest.mark.parametrize("place", [1, 2])
def test_line_that_is_no_row_of_json_lines_costs_only_itself(place, line, sentence, name, tmp_path):
    path = tmp_path / name
    lines = [ROW, ROW]
    lines.insert(place - 1, line)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    source = open_source(path)
    assert source.file_format == "jsonl"
    assert list(read_errors(path)) == [place]
    assert sentence in read_errors(path)[place]
    assert [row.example for row in source if row.example] == [ONE, ONE]


def test_comma_after_every_row_is_named(tmp_path):
    path = tmp_path / "rows"
    path.write_text(f"{ROW},\n{ROW},\n")
    with pytest.raises(DatasetError, match="number 1: the row ends in a comma, which JSON lines do not have"):
        open_source(path)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.txt", "rows.parquet", "rows"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "<!doctype html>\n<html><body>\n<h1>404</h1></body></html>",
            "this is an HTML page ('404'), not a data set; was",
        ),
        ("\ufeff\n<html lang=en><head><title>Sign in, please</title>", "an HTML page ('Sign in, please'), not a data"),
        ("<!-- a proxy -->\n<HTML>", "this is an HTML page, not a data set; was the download refused?"),
        (
            '<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>',
            "this is an XML document ('Access Denied'), not a data set",
        ),
        ('<feed xmlns="http://www.w3.org/2005/Atom">', "this is an XML document, not a data set"),
        (LFS, "this is a Git LFS pointer to a file of 12,345 bytes, not the file itself; fetch it with git lfs pull"),
        ('{"error":"Repository not found"}', "this is a server's error ('Repository not found'), not a data set; was"),
        ('{"message": "Not Found", "documentation_url": "https://docs"}\n', "this is a server's error ('Not Found')"),
        (json.dumps({"error": {"message": "no", "code": 401}}, indent=2), "this is a server's error ({'code': 401,"),
        ("404: Not Found", "this is a server's error ('404: Not Found'), not a data set"),
        ("Invalid username or password.", "this is a server's error ('Invalid username or password')"),
    ],
)
def test_what_a_server_or_git_gives_in_place_of_a_file_is_named(content, sentence, name, tmp_path):
    path = tmp_path / name
    path.write_text(content, "utf-8")
    with pytest.raises(DatasetError) as caught:
        open_source(path)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ('{"message": "q", "detail": "a"}', {"question": "message", "answer": "detail"}),
        (ROW.replace("}", ', "error": "none"}'), None),
    ],
)
def test_row_with_the_names_of_an_error_is_read(content, columns, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    assert read_examples(path, columns)


@pytest.mark.parametrize(
    "content", ["<s>[INST] Hi [/INST]", "<poem>\nOne", "# Notes\n\n[1] One", "Entry not found, she said"]
)
def test_text_that_only_begins_like_something_else_is_plain_text(content, tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text(content)
    assert open_source(path).file_format == "text"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("rows.jsonl", "One day a fox came.\n", "number 1: the row is not valid JSON: expecting value at character 1"),
        ("rows.NDJSON", "One day a fox came.\n", "number 1: the row is not valid JSON"),
        ("rows.json", "One day a fox came.\n", "the file is not valid JSON on line 1: expecting value at character 1"),
        ("rows.json", 'stion": "q"},\n{"question"', "the file is not valid JSON on line 1: expecting value"),
        ("rows.csv", "What is 1 + 1?,2\nWhat is 1 + 2?,3\n", "the columns are 'What is 1 + 1?', '2'. Accepted are"),
        ("rows.parquet", "One day a fox came.\n", "ends in .parquet, but it is plain text, which begins with 'One day"),
    ],
)
def test_plain_text_by_another_name_is_never_read_as_plain_text(name, content, sentence, tmp_path):
    for path, file_name in ((tmp_path / name, None), (tmp_path / "0f3a", name)):
        path.write_text(content)
        with pytest.raises(DatasetError) as caught:
            list(open_source(path, file_name=file_name))
        assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "warning"),
    [
        ("rows.jsonl", "question,answer\nq,a\n", "The file's name ends in .jsonl, but it was read as CSV."),
        ("rows.jsonl", f"[{ROW}]", "The file's name ends in .jsonl, but it was read as JSON."),
        ("rows.csv", f"{ROW}\n", "The file's name ends in .csv, but it was read as JSON lines."),
        ("rows.parquet", f"{ROW}\n", "The file's name ends in .parquet, but it was read as JSON lines."),
        ("rows.txt", "question,answer\nq,a\n", "The file's name ends in .txt, but it was read as CSV."),
        ("rows.json", f"{ROW}\n", None),
        ("rows.data", f"{ROW}\n", None),
        ("rows", f"{ROW}\n", None),
    ],
)
def test_name_that_says_another_format_is_warned_about(name, content, warning, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    assert read_examples(path) == [ONE]
    assert list(open_source(path).warnings) == ([warning] if warning else [])
