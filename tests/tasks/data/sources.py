"""A source of rows as reading a file gives it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.data.examples import Example
from tasks.data.source import SourceExample


@dataclass(frozen=True)
class ListedSource:
    """Rows numbered from 1; a sentence in place of an example is a row in error."""

    rows: Sequence[Example | str]
    ignored_columns: tuple[str, ...] = ()
    file_format: str = "jsonl"
    shape: str = "messages"
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[SourceExample]:
        for number, row in enumerate(self.rows, start=1):
            yield SourceExample(number, None, row) if isinstance(row, str) else SourceExample(number, row)
