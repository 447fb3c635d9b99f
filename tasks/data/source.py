"""The examples of a data set as they are read: each with its row number, or the reason why it can't be used."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tasks.data.examples import Example


@dataclass(frozen=True, slots=True)
class SourceExample:
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
