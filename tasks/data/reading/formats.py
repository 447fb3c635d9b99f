"""Detects a file's format by its content, which its name may not contradict in silence, and reads its rows."""

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path, PurePath
from typing import IO, Literal

from tasks.data.examples import DatasetError
from tasks.data.reading.columnar import raw_columnar
from tasks.data.reading.delimited import (
    SAMPLE_BYTES,
    declared_delimiter,
    read_delimited,
    sample_records,
    sniffed_delimiter,
)
from tasks.data.reading.json_document import holds_rows, read_json_document
from tasks.data.reading.json_lines import raw_json_lines, row_of_line
from tasks.data.reading.other_files import (
    ACCEPTED,
    refuse_answers,
    refuse_error_object,
    refuse_other_encodings,
    refuse_other_kinds,
    require_readable_file,
)
from tasks.data.reading.plain_text import read_plain_text
from tasks.data.reading.records import (
    MAX_RECORD_BYTES,
    RawLine,
    RawRow,
    SourceRow,
    is_object,
    open_at_content,
    parsed_or_none,
    shortened,
)

FileFormat = Literal["jsonl", "json", "csv", "parquet", "arrow", "text"]
COLUMNAR: tuple[FileFormat, ...] = ("parquet", "arrow")
"""The formats of which single columns can be read."""

_TITLES: dict[FileFormat, str] = {
    "jsonl": "JSON lines",
    "json": "JSON",
    "csv": "CSV",
    "parquet": "Parquet",
    "arrow": "Arrow",
    "text": "plain text",
}
# The formats that a file of this name may have, the usual one first.
_ENDINGS: dict[str, tuple[FileFormat, ...]] = {
    ".jsonl": ("jsonl",),
    ".ndjson": ("jsonl",),
    ".jsonlines": ("jsonl",),
    ".json": ("json", "jsonl"),
    ".csv": ("csv",),
    ".tsv": ("csv",),
    ".parquet": ("parquet",),
    ".arrow": ("arrow",),
    ".feather": ("arrow",),
    ".ipc": ("arrow",),
    ".txt": ("text",),
    ".text": ("text",),
    ".md": ("text",),
}
_LIST = re.compile(rb'\[(?:\s*\[)*+\s*(?:[{"\]]|\Z)')
# A Python dictionary's quote is taken for JSON too, so that the row's error can say what is wrong with it.
_OBJECT = re.compile(rb"""\{\s*(?:["'}]|\Z)""")
_COMMENTS = re.compile(rb"(?:(?://|#)[^\n]*\n\s*+|/\*.*?\*/\s*+)++", re.DOTALL)
_LIST_WITHIN = re.compile(rb'"(\w+)"\s*:\s*\[\s*\{')
_STREAM_START = b"\xff\xff\xff\xff"
_LONGEST_NAME = 64
_LINES_TRIED = 8


def detect(path: Path, known_columns: Collection[str], file_name: str = "") -> FileFormat:
    """Return the file's format.

    `known_columns` are names that make a first line the header of a CSV file, rather than a sentence with a comma.
    `file_name` is the name that its owner gave it: any content may be plain text, so what is named otherwise is read as
    its name says, and the errors are those of that format. Raises DatasetError for a file that is none of the formats,
    with what it is instead or where it goes wrong.
    """
    named = _ENDINGS.get(_ending(file_name), ())
    found, beginning = _detected(path, known_columns, named)
    if found != "text" or not named:
        return found
    if named[0] in COLUMNAR:
        raise DatasetError(
            f"its name ends in {_ending(file_name)}, but it is plain text, which begins with {shortened(beginning)}"
        )
    return named[0]


def contradiction(file_format: FileFormat, file_name: str) -> str | None:
    """Return the sentence about a file whose name says another format than it has, or None."""
    if file_format in _ENDINGS.get(_ending(file_name), (file_format,)):
        return None
    return f"The file's name ends in {_ending(file_name)}, but it was read as {_TITLES[file_format]}."


def _ending(file_name: str) -> str:
    return PurePath(file_name).suffix.lower()


def _detected(path: Path, known_columns: Collection[str], named: Sequence[FileFormat]) -> tuple[FileFormat, str]:
    """Return the format that the content has, and how it begins."""
    require_readable_file(path)
    with path.open("rb") as file:
        head = file.read(SAMPLE_BYTES)
    is_whole = len(head) < SAMPLE_BYTES
    refuse_other_kinds(head)
    if head.startswith(b"PAR1"):
        return "parquet", ""
    if head.startswith((b"ARROW1", _STREAM_START)):
        return "arrow", ""
    refuse_answers(head, is_whole)
    with open_at_content(path) as file:
        start = _skip_blank(file)
        sample = file.read(SAMPLE_BYTES)
        # A text may have a heading before a bracket.
        comments = None if "text" in named else _COMMENTS.match(sample)
        from_json = comments.end() if comments else 0
        file.seek(start + from_json)
        json_format = _json_format(file, sample[from_json:], known_columns, is_whole)
        if json_format:
            return json_format, ""
        refuse_other_encodings(head, is_whole)
        file.seek(start)
        return _text_format(file, sample, known_columns, named), sample.decode("utf-8", "replace")


def read_rows(path: Path, file_format: FileFormat, columns: Collection[str]) -> Iterator[SourceRow]:
    """Yield the rows of a file of this format, holding only a few in memory.

    Of a Parquet or Arrow file only `columns` are read; the rows of other formats come with all that they have.
    Raises DatasetError where the rest of the file is lost.
    """
    return map(read_row, raw_rows(path, file_format, columns))


def raw_rows(path: Path, file_format: FileFormat, columns: Collection[str]) -> Iterator[RawRow]:
    """Yield the same, but lines of JSON as they are, for `read_row`."""
    if file_format in COLUMNAR:
        return raw_columnar(path, columns)
    return _READERS[file_format](path)


def read_row(raw: RawRow) -> SourceRow:
    """Return a row as `read_rows` yields it."""
    return row_of_line(raw) if isinstance(raw, RawLine) else raw


_READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    "jsonl": raw_json_lines,
    "json": read_json_document,
    "csv": read_delimited,
    "text": read_plain_text,
}


def _skip_blank(file: IO[bytes]) -> int:
    """Return where the first character that is not blank stands, and go there."""
    while block := file.read(SAMPLE_BYTES):
        if rest := block.lstrip():
            return file.seek(file.tell() - len(rest))
    raise DatasetError(f"the file holds only blank lines; {ACCEPTED}")


def _json_format(
    file: IO[bytes], sample: bytes, known_columns: Collection[str], is_whole: bool
) -> Literal["jsonl", "json"] | None:
    """Return the format of a file that reads on with the sample, if that starts as JSON does."""
    if _OBJECT.match(sample):
        if is_whole:
            refuse_error_object(parsed_or_none(sample), known_columns)
        return _object_format(file, sample)
    if _LIST.match(sample) or (sample.startswith(b"[") and parsed_or_none(file.readline(SAMPLE_BYTES)) is not None):
        return "json"
    return None


def _object_format(file: IO[bytes], sample: bytes) -> Literal["jsonl", "json"]:
    """Distinguish JSON lines from a JSON file that is one object; a lone line may be either."""
    line = file.readline(MAX_RECORD_BYTES + 1)
    if len(line) > MAX_RECORD_BYTES:
        names = (match[1].decode() for match in _LIST_WITHIN.finditer(sample))
        return "json" if any(holds_rows(name, [{}]) for name in names) else "jsonl"
    row = parsed_or_none(line)
    if isinstance(row, dict):
        is_alone = not any(block.strip() for block in iter(lambda: file.read(SAMPLE_BYTES), b""))
        return "json" if is_alone and any(holds_rows(*member) for member in row.items()) else "jsonl"
    line = line.rstrip()
    last = line[-1:]
    if last == b"[":
        return "json"
    if last not in b"{,:" or (last == b"," and is_object(line[:-1])):
        return "jsonl"
    is_line_after_broken_one = is_object(file.readline(MAX_RECORD_BYTES + 1))
    return "jsonl" if is_line_after_broken_one else "json"


def _text_format(
    file: IO[bytes], sample: bytes, known_columns: Collection[str], named: Sequence[FileFormat]
) -> Literal["csv", "jsonl", "text"]:
    """Return the format of a file that starts with the sample, and does not start as JSON."""
    if (not named or "jsonl" in named) and _reads_on_with_objects(file):
        return "jsonl"
    records = sample_records(sample, sniffed_delimiter(sample))
    header = [cell.strip() for cell in records[0]] if records else []
    if declared_delimiter(sample) or not set(known_columns).isdisjoint(header):
        return "csv"
    return "csv" if _is_table(records) else "text"


def _reads_on_with_objects(file: IO[bytes]) -> bool:
    """Whether most lines after the first are JSON objects: then the first is a row that was cut or damaged."""
    lines = (line.strip() for line in iter(lambda: file.readline(MAX_RECORD_BYTES + 1), b""))
    are_objects = [
        line.startswith(b"{") and is_object(line) for line in itertools.islice(lines, 1, _LINES_TRIED) if line
    ]
    return 2 * sum(are_objects) >= len(are_objects) > 0


def _is_table(records: list[list[str]]) -> bool:
    """Whether records under names that say nothing to us look like a table throughout; prose with commas does not."""
    if not records or len(records[0]) < 2:
        return False
    are_names = all(
        cell == cell.strip() and len(cell) <= _LONGEST_NAME and cell[-1:] not in ".!?:" for cell in records[0]
    )
    return are_names and {len(cells) for cells in records} == {len(records[0])}
