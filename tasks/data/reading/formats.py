"""Detects a file's format by its content, never by its name, and reads its rows."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Literal

from tasks.data.examples import DatasetError
from tasks.data.reading.delimited import SAMPLE_BYTES, read_delimited, sample_records, sniffed_delimiter
from tasks.data.reading.json_document import holds_rows, read_json_document
from tasks.data.reading.json_lines import read_json_lines
from tasks.data.reading.other_files import (
    ACCEPTED,
    refuse_other_encodings,
    refuse_other_kinds,
    require_readable_file,
)
from tasks.data.reading.paragraphs import read_paragraphs
from tasks.data.reading.parquet import read_parquet
from tasks.data.reading.records import MAX_RECORD_BYTES, SourceRow, open_at_content, parse_json

FileFormat = Literal["jsonl", "json", "csv", "parquet", "text"]

_LIST = re.compile(rb'\[(?:\s*\[)*+\s*(?:[{"\]]|\Z)')
# A Python dictionary's quote is taken for JSON too, so that the row's error can say what is wrong with it.
_OBJECT = re.compile(rb"""\{\s*(?:["'}]|\Z)""")
_LIST_WITHIN = re.compile(rb'"(\w+)"\s*:\s*\[\s*\{')
_LONGEST_NAME = 64


def detect(path: Path, known_columns: Collection[str]) -> FileFormat:
    """Return the file's format.

    `known_columns` are names that make a first line the header of a CSV file, rather than a sentence with a comma.
    Raises DatasetError for a file that is none, with what it is instead or where it goes wrong.
    """
    require_readable_file(path)
    with path.open("rb") as file:
        head = file.read(SAMPLE_BYTES)
        refuse_other_kinds(head)
        if head.startswith(b"PAR1"):
            return "parquet"
    with open_at_content(path) as file:
        start = _skip_blank(file)
        sample = file.read(SAMPLE_BYTES)
        file.seek(start)
        if _OBJECT.match(sample):
            return _object_format(file, sample)
        if _LIST.match(sample) or (sample.startswith(b"[") and _parsed(file.readline(SAMPLE_BYTES)) is not None):
            return "json"
    refuse_other_encodings(head, is_whole=len(head) < SAMPLE_BYTES)
    return "csv" if _has_header(sample, known_columns) else "text"


def read_rows(path: Path, file_format: FileFormat, columns: Collection[str]) -> Iterator[SourceRow]:
    """Yield the rows of a file of this format, holding only a few in memory.

    Of a Parquet file only `columns` are read; the rows of other formats come with all that they have.
    Raises DatasetError where the rest of the file is lost.
    """
    if file_format == "parquet":
        return read_parquet(path, columns)
    return _READERS[file_format](path)


_READERS = {
    "jsonl": read_json_lines,
    "json": read_json_document,
    "csv": read_delimited,
    "text": read_paragraphs,
}


def _skip_blank(file: IO[bytes]) -> int:
    """Return where the first character that is not blank stands, and go there."""
    while block := file.read(SAMPLE_BYTES):
        if rest := block.lstrip():
            return file.seek(file.tell() - len(rest))
    raise DatasetError(f"the file holds only blank lines; {ACCEPTED}")


def _object_format(file: IO[bytes], sample: bytes) -> FileFormat:
    """Distinguish JSON lines from a JSON file that is one object; a lone line may be either."""
    line = file.readline(MAX_RECORD_BYTES + 1)
    if len(line) > MAX_RECORD_BYTES:
        names = (match[1].decode() for match in _LIST_WITHIN.finditer(sample))
        return "json" if any(holds_rows(name, [{}]) for name in names) else "jsonl"
    row = _parsed(line)
    if isinstance(row, dict):
        is_alone = not any(block.strip() for block in iter(lambda: file.read(SAMPLE_BYTES), b""))
        return "json" if is_alone and any(holds_rows(*member) for member in row.items()) else "jsonl"
    last = line.rstrip()[-1:]
    if last == b"[":
        return "json"
    is_line_after_broken_one = isinstance(_parsed(file.readline(MAX_RECORD_BYTES + 1)), dict)
    return "json" if last in b"{,:" and not is_line_after_broken_one else "jsonl"


def _parsed(line: bytes) -> object:
    """Return the line's JSON value, or None if it has none."""
    try:
        return parse_json(line.decode("utf-8"))
    except (DatasetError, UnicodeDecodeError):
        return None


def _has_header(sample: bytes, known_columns: Collection[str]) -> bool:
    records = sample_records(sample, sniffed_delimiter(sample))
    if not records:
        return False
    header = [cell.strip() for cell in records[0]]
    if not set(known_columns).isdisjoint(header):
        return True
    # Names that say nothing to us: then the file has to look like a table throughout, as prose with commas does not.
    are_names = all(
        cell == cell.strip() and len(cell) <= _LONGEST_NAME and cell[-1:] not in ".!?:" for cell in records[0]
    )
    return are_names and len(header) > 1 and {len(cells) for cells in records} == {len(header)}
