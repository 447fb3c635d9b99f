"""JSON lines: one object a line; a line that cannot be read costs only itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tasks.data.examples import DatasetError
from tasks.data.reading.records import (
    COMMENT_STARTS,
    TOO_LONG,
    SourceRow,
    decode_line,
    is_object,
    numbered_lines,
    open_at_content,
    parse_json,
    require_object,
    shortened,
)


def read_json_lines(path: Path) -> Iterator[SourceRow]:
    """Yield the rows in order, blank lines left out."""
    with open_at_content(path) as file:
        yield from rows_of_lines(file)


def rows_of_lines(file: IO[bytes]) -> Iterator[SourceRow]:
    """Yield the rows of the lines that are still to be read."""
    for number, line in numbered_lines(file):
        if line is None:
            yield SourceRow(number, None, f"the row {TOO_LONG}")
        elif not line.isspace():
            yield _row(number, line)


def _row(number: int, line: bytes) -> SourceRow:
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
