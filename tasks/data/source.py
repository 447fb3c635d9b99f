"""The examples of a data set as they are read: each with its row number, or the reason why it can't be used."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from tasks.data.examples import Example


class SourceExample(NamedTuple):
    """A row of a file as an example, or why it can't be used."""

    number: int
    """Line in the file (JSON lines, CSV, text), index from 1 (JSON), or row (Parquet, Arrow)."""
    example: Example | None
    error: str | None = None
    """One sentence, without the number."""


class ExampleSource(Protocol):
    """The examples of a file. It can be iterated more than once."""

    @property
    def file_format(self) -> str:
        """The file format that was detected."""
        ...

    @property
    def shape(self) -> str:
        """The row format that was detected."""
        ...

    @property
    def ignored_columns(self) -> Sequence[str]:
        """Columns that no field of the shape is taken from."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """Sentences about the file as a whole that a person should know."""
        ...

    def __iter__(self) -> Iterator[SourceExample]: ...


@runtime_checkable
class RawSource(ExampleSource, Protocol):
    """A source whose rows can be taken from the file by one process, and read by others, if they are lines."""

    layout: str
    """What becomes known of the rows' shape as they are read."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        ...

    @property
    def is_of_lines(self) -> bool:
        """Whether each of the `raw_rows` is a line with its number, so that all the reading is still to be done."""
        ...

    def raw_rows(self) -> Iterator[Any]:
        """Yield the rows as little read as can be."""
        ...

    def example_of(self, raw: Any) -> SourceExample:
        """Return one of the `raw_rows` as iterating yields it."""
        ...
