"""What reading a file gives: its rows, and what was found out about it."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from tasks.data.examples import Example


class SourceRow(Protocol):
    """A row of a file: an example, or a sentence that says why it is none."""

    @property
    def number(self) -> int:
        """Where it stands in the file: its line, or its place in a list."""
        ...

    @property
    def example(self) -> Example | None:
        """What it says; None if it is in error."""
        ...

    @property
    def error(self) -> str | None:
        """Why it can't be used; None if it can."""
        ...


class ExampleSource(Protocol):
    """The rows of a file. It can be iterated more than once."""

    @property
    def file_format(self) -> str:
        """As which kind of file it was read."""
        ...

    @property
    def shape(self) -> str:
        """As which kind of rows."""
        ...

    @property
    def ignored_columns(self) -> Sequence[str]:
        """Columns that no field of the shape is taken from."""
        ...

    def __iter__(self) -> Iterator[SourceRow]: ...
