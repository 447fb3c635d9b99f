"""A file's examples, whatever its format and shape."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tasks.data.examples import DatasetError
from tasks.data.reading.columnar import column_names
from tasks.data.reading.formats import COLUMNAR, FileFormat, contradiction, detect, raw_rows, read_row, read_rows
from tasks.data.reading.plain_text import layout_of
from tasks.data.reading.records import RawRow
from tasks.data.reading.shapes import COLUMN_NAMES, PROMPT_COMPLETION, TURNS, Shape, shape_of, to_example
from tasks.data.source import SourceExample

_FIRST_ROWS = 20
_MOST_UNREADABLE_ROWS = 1_000


class FileSource:
    """The examples of a file, read again, row by row, each time it is iterated; an `ExampleSource`."""

    def __init__(
        self, path: Path, file_format: FileFormat, shape: Shape, columns: list[str], warnings: Sequence[str] = ()
    ) -> None:
        self.file_format = file_format
        self.layout: str = layout_of(path) if file_format == "text" else ""
        """What is known of the rows' shape besides its name; with chats, once they have been read."""
        used = set(shape.columns.values())
        self.ignored_columns = [column for column in columns if column not in used]
        """The columns of the first rows that no field of the shape is read from."""
        self.warnings = warnings
        self._path = path
        self._shape = shape
        self._columns = [column for column in columns if column in used]
        self._turns_in = [shape.columns[field] for field in ("prompt", "completion") if shape.name == PROMPT_COMPLETION]

    @property
    def shape(self) -> str:
        """The rows' shape, and what is known of it more exactly once they have been read."""
        return f"{self._shape.name}: {self.layout}" if self.layout else self._shape.name

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._path.stat().st_size

    @property
    def is_of_lines(self) -> bool:
        """Whether the `raw_rows` are lines of JSON."""
        return self.file_format == "jsonl" or self.file_format in COLUMNAR

    def __iter__(self) -> Iterator[SourceExample]:
        """Yield every row in order. Raises DatasetError where the rest of the file cannot be read."""
        return map(self.example_of, self.raw_rows())

    def raw_rows(self) -> Iterator[RawRow]:
        """Yield the rows as little read as the format allows: lines of JSON as they are."""
        return raw_rows(self._path, self.file_format, self._columns)

    def example_of(self, raw: RawRow) -> SourceExample:
        """Return the example of a row."""
        number, row, error = read_row(raw)
        if row is None:
            return SourceExample(number, None, error)
        if self._turns_in and any(isinstance(row.get(column), list) for column in self._turns_in):
            self.layout = TURNS
        try:
            return SourceExample(number, to_example(row, self._shape), error)
        except DatasetError as problem:
            return SourceExample(number, None, str(problem))


def open_source(path: Path, columns: Mapping[str, str] | None = None, file_name: str | None = None) -> FileSource:
    """Find out a file's format and, from its first rows, the shape that all its rows must have.

    `columns` names the file's column for fields whose name differs, {"question": "Frage"}; `file_name` is the name that
    its owner gave it, if that is not the path's. Raises DatasetError for a file that is empty, none of the formats,
    broken within the first rows, or of no shape.
    """
    mapping = columns or {}
    name = path.name if file_name is None else file_name
    file_format = detect(path, COLUMN_NAMES.union(mapping.values()), name)
    names = _column_names(path, file_format)
    contradicted = contradiction(file_format, name)
    warnings = [contradicted] if contradicted else []
    return FileSource(path, file_format, shape_of(names, mapping), names, warnings)


def _column_names(path: Path, file_format: FileFormat) -> list[str]:
    """Return the names in the order of their first occurrence; rows of JSON need not have the same."""
    if file_format in COLUMNAR:
        return column_names(path)
    names: dict[str, None] = {}
    first_error: str | None = None
    good_rows = 0
    for number, row, error in itertools.islice(read_rows(path, file_format, ()), _MOST_UNREADABLE_ROWS):
        if row is None:
            first_error = first_error or f"{number}: {error}"
            continue
        names.update(dict.fromkeys(row))
        good_rows += 1
        if good_rows == _FIRST_ROWS:
            break
    if not good_rows and first_error:
        raise DatasetError(f"none of the first rows can be read; number {first_error}")
    if not good_rows:
        raise DatasetError("the file holds no rows")
    return list(names)
