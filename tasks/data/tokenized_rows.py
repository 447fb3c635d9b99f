"""Tokenized rows on disk: written once as an Arrow file, read back memory-mapped, one row at a time."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter

from tasks.data.template import TokenizedExample

FEATURES: dict[str, Any] = {
    "input_ids": List(Value("int32")),
    "prompt_length": Value("int32"),
    "full_length": Value("int64"),
    "length": Value("int32"),
    "position": Value("int64"),
}


class TokenizedRows(Sequence[TokenizedExample]):
    """Rows of an Arrow file, indexable like a list; only the rows that are looked at are read into memory."""

    def __init__(self, path: Path) -> None:
        self._rows = Dataset.from_file(str(path))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> TokenizedExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenizedExample]: ...
    def __getitem__(self, index: int | slice) -> TokenizedExample | list[TokenizedExample]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        row = self._rows[index]
        return TokenizedExample(row["input_ids"], row["prompt_length"], row["full_length"])

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, in order, without reading the rows."""
        return list(self._rows["length"][:])

    @property
    def positions(self) -> list[int]:
        """Place of each row in the list that it was written from; unusable rows left gaps."""
        return list(self._rows["position"][:])


def write_rows(rows: Iterable[tuple[int, TokenizedExample]], path: Path) -> int:
    """Write (position, row) pairs to an Arrow file at `path`, a small batch at a time; return how many there were."""
    writer = ArrowWriter(features=Features(FEATURES), path=str(path))
    for position, row in rows:
        writer.write(
            {
                "input_ids": row.input_ids,
                "prompt_length": row.prompt_length,
                "full_length": row.full_length,
                "length": len(row.input_ids),
                "position": position,
            }
        )
    count: int
    count, _ = writer.finalize()
    return count
