"""CSV with a header, the cells divided by commas, semicolons, tabs or bars, or as Excel's first line says."""

import csv
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tasks.data.examples import DatasetError
from tasks.data.reading.records import (
    MAX_COLUMNS,
    MAX_RECORD_BYTES,
    TOO_LONG,
    SourceRow,
    decode_line,
    open_at_content,
    shortened,
)

DELIMITERS = ",;\t|"
SAMPLE_BYTES = 2**16
_SAMPLE_ROWS = 20
# Written by hand a tab is often spelt.
_DELIMITER_LINE = re.compile(rb'\s*"?sep=([^\w\s"\\]|\t|\\t)"? *(?:\r?\n|\Z)', re.IGNORECASE | re.ASCII)


def read_delimited(path: Path) -> Iterator[SourceRow]:
    """Yield the records after the header, with the line on which each starts; a cell's text is taken as it is.

    A record with more or fewer cells than the header is that record's error. Raises DatasetError for what makes the
    rest of the file meaningless: a quote that is not closed, what is not UTF-8, a header with a name twice.
    """
    # The limit is the module's, not the reader's; the default would refuse a long answer.
    csv.field_size_limit(MAX_RECORD_BYTES)
    with open_at_content(path) as file:
        start = file.tell()
        sample = file.read(SAMPLE_BYTES)
        file.seek(start)
        declared = declared_delimiter(sample)
        records = _records(file, declared or sniffed_delimiter(sample))
        if declared:
            next(records)
        _, header = next(records, (0, []))
        names = _names(header)
        for number, cells in records:
            if len(cells) == len(names):
                yield SourceRow(number, dict(zip(names, cells, strict=True)))
            else:
                yield SourceRow(number, None, f"the record has {len(cells)} cells and the header {len(names)}")


def declared_delimiter(sample: bytes) -> str | None:
    """Return the delimiter that a file's first line declares, as Excel has it (`sep=;`), or None."""
    match = _DELIMITER_LINE.match(sample)
    return match and match[1].decode().replace("\\t", "\t")


def sniffed_delimiter(sample: bytes) -> str:
    """Return the delimiter with which the sample's records are most alike; a comma if there is nothing to divide."""
    best, best_score = ",", (0.0, 1)
    for delimiter in DELIMITERS:
        widths = [len(cells) for cells in sample_records(sample, delimiter)]
        if widths and widths[0] > 1:
            score = (widths.count(widths[0]) / len(widths), widths[0])
            if score > best_score:
                best, best_score = delimiter, score
    return best


def sample_records(sample: bytes, delimiter: str) -> list[list[str]]:
    """Return the first records of a file's first SAMPLE_BYTES; none if they cannot be read."""
    # Not splitlines: it takes U+2028 and others for line ends.
    lines = [line + "\n" for line in sample.decode("utf-8", "replace").split("\n") if line]
    try:
        records = list(itertools.islice(csv.reader(lines, delimiter=delimiter), _SAMPLE_ROWS))
    except csv.Error:
        return []
    is_last_cut = len(sample) >= SAMPLE_BYTES and 1 < len(records) < _SAMPLE_ROWS
    return records[:-1] if is_last_cut else records


class _Lines:
    """Passes the lines to the CSV reader, and counts them and the current record's bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.number = 0
        self.first_of_record = 1
        self.record_bytes = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_RECORD_BYTES + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.record_bytes += len(line)
        if self.record_bytes > MAX_RECORD_BYTES:
            raise DatasetError(
                f"the record that starts on line {self.first_of_record} {TOO_LONG}; is a quote in it not closed?"
            )
        if b"\0" in line:
            raise DatasetError(f"line {self.number} holds a NUL byte, so this is no text")
        try:
            return decode_line(line)
        except DatasetError as error:
            raise DatasetError(f"line {self.number}: {error}") from None


def _records(file: IO[bytes], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, cells) of each record that is not blank."""
    lines = _Lines(file)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.first_of_record = lines.number + 1
        lines.record_bytes = 0
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DatasetError(_quoting_problem(lines.first_of_record, lines.number, str(error))) from None
        if cells:
            yield lines.first_of_record, cells


def _quoting_problem(first: int, last: int, problem: str) -> str:
    if "unexpected end of data" in problem:
        return f"the record that starts on line {first} has a quote that is not closed until the end of the file"
    return (
        f"the record that starts on line {first} cannot be read at line {last}: {problem}; "
        'a quote within a cell is written twice ("")'
    )


def _names(header: list[str]) -> list[str]:
    if len(header) > MAX_COLUMNS:
        raise DatasetError(f"the header has {len(header)} columns; at most {MAX_COLUMNS} are accepted")
    # pandas writes its index under an empty name.
    names = [cell.strip() or f"(column {place})" for place, cell in enumerate(header, 1)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"the header names the column {shortened(twice)} twice")
    return names
