"""JSON lines: one object a line; a line that cannot be read costs only itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tasks.data.examples import DatasetError
from tasks.data.reading.records import (
    COMMENT_STARTS,
    TOO_LONG,
    RawLine,
    SourceRow,
    decode_line,
    is_object,
    numbered_lines,
    open_at_content,
    parse_json,
    require_object,
    shortened,
)


def raw_json_lines(path: Path) -> Iterator[RawLine]:
    """Yield the lines in order, blank ones left out."""
    with open_at_content(path) as file:
        yield from raw_lines(file)


def raw_lines(file: IO[bytes]) -> Iterator[RawLine]:
    """Yield the lines that are still to be read, blank ones left out."""
    for number, line in numbered_lines(file):
        if line is None or not line.isspace():
            yield RawLine(number, line)


def row_of_line(raw: RawLine) -> SourceRow:
    """Return the row of a line."""
    number, line = raw
    if line is None:
        return SourceRow(number, None, f"the row {TOO_LONG}")
    try:
        return SourceRow(number, require_object(parse_json(decode_line(line.rstrip()))))
    except DatasetError as error:
        problem = _habit(line.strip()) or str(error)
    return SourceRow(number, None, problem if problem.startswith("byte") else f"the row {problem}")


def _habit(line: bytes) -> str | None:
    """Return what is wrong with a line that is right in other languages, or None."""
    if line.startswith(tuple(start.encode() for start in COMMENT_STARTS)):
        return f"is a comment ({shortened(line.decode('utf-8', 'replace'))}), and JSON has no comments; remove it"
    if line.endswith(b",") and is_object(line[:-1]):
        return "ends in a comma, which JSON lines do not have between the rows; remove the comma"
    return None
