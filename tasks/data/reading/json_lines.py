"""JSON lines: one object a line; a line that cannot be read costs only itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tasks.data.examples import DatasetError
from tasks.data.reading.records import (
    TOO_LONG,
    SourceRow,
    decode_line,
    numbered_lines,
    open_at_content,
    parse_json,
    require_object,
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
        problem = str(error)
    return SourceRow(number, None, problem if problem.startswith("byte") else f"the row {problem}")
