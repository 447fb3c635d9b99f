"""Tokenized rows on disk: written once as an Arrow file, read back memory-mapped, one row at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.data.arrow_file import ROWS_PER_BATCH, SIZE_PER_BATCH, MappedFile, lists, numbers
from tasks.data.indexed import Indexed
from tasks.data.tokenizing import TokenBatch, TokenizedExample, answer_tokens, cut, joined

SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "length": pa.int32(),
        "spans": pa.list_(pa.int32()),
        "weights": pa.list_(pa.float32()),
        "is_text": pa.bool_(),
        "link_before": pa.int32(),
        "link_after": pa.int32(),
    }
)
"""`spans` has the start and the end of each learned segment, one after the other; `weights` what each of a segment's
tokens counts in the loss, a number for each segment, and nothing for a row where all are 1; the last three are as in
`TokenBatch`."""


class TokenWriter:
    """Writes batches of rows to an Arrow file at `path`; the file is good once it is closed."""

    def __init__(self, path: Path) -> None:
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, SCHEMA)
        self._waiting: list[TokenBatch] = []

    def write(self, batch: TokenBatch) -> None:
        """Append uncut rows."""
        self._waiting.append(batch)
        rows = sum(map(len, self._waiting))
        tokens = sum(len(waiting.token_ids) for waiting in self._waiting)
        if rows >= ROWS_PER_BATCH or tokens >= SIZE_PER_BATCH:
            self._write()

    def close(self) -> None:
        """End the file; a second call does nothing."""
        if self._file.closed:
            return
        if self._waiting:
            self._write()
        self._writer.close()
        self._file.close()

    def _write(self) -> None:
        batch = joined(self._waiting)
        columns = [
            lists(batch.token_ids, batch.lengths),
            numbers(batch.lengths),
            lists(batch.spans.ravel(), 2 * batch.span_counts),
            _weights(batch),
            numbers(batch.is_text),
            numbers(batch.all_links[:, 0]),
            numbers(batch.all_links[:, 1]),
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        self._waiting = []


class TokenTable:
    """Uncut tokenized rows of an Arrow file; only those that are accessed are read into memory.

    Raises OSError or `pyarrow.ArrowInvalid` for a file that is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = MappedFile(path)
        batches = self._rows.batches
        self.lengths = _joined([batch.column("length").to_numpy() for batch in batches])
        """Tokens of each row."""
        self.is_text: NDArray[np.bool_] = _joined(
            [batch.column("is_text").to_numpy(zero_copy_only=False) for batch in batches]
        ).astype(np.bool_)
        """Which rows are plain texts."""
        before, after = (
            _joined([batch.column(name).to_numpy() for batch in batches]) for name in ("link_before", "link_after")
        )
        self.goes_on = np.zeros(len(self.lengths), np.bool_)
        """Which rows are parts of what the next one is a part of, too."""
        self.goes_on[:-1] = (after[:-1] != 0) & (after[:-1] == before[1:])
        spans = [batch.column("spans") for batch in batches]
        self._spans = _joined([column.values.to_numpy() for column in spans]).reshape(-1, 2)
        self._span_counts = _joined([np.diff(column.offsets.to_numpy()) // 2 for column in spans])

    def __reduce__(self) -> tuple[type["TokenTable"], tuple[Path]]:
        # By its path: another process maps the file itself, where pickled views would be copies of all rows.
        return TokenTable, (self._path,)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, position: int, max_seq_length: int) -> TokenizedExample:
        """Return one row, cut to `max_seq_length` tokens."""
        batch, place = self._rows.find(position)
        weights: NDArray[np.float32] = batch.column("weights")[place].values.to_numpy()
        return cut(
            _at(batch, "input_ids", place),
            _at(batch, "spans", place).reshape(-1, 2),
            max_seq_length,
            weights if len(weights) else None,
        )

    def text(self, position: int, start: int, length: int) -> TokenizedExample:
        """Return `length` tokens of texts, from token `start` of the row at `position` on into the next rows."""
        ids: list[int] = []
        spans, weights = [], []
        while len(ids) < length:
            batch, place = self._rows.find(position)
            part = _at(batch, "input_ids", place)[start : start + length - len(ids)].tolist()
            weight = batch.column("weights")[place].as_py()
            spans.append((len(ids), len(ids) + len(part)))
            weights.append(weight[0] if weight else 1.0)
            ids += part
            position, start = position + 1, 0
        if all(weight == 1 for weight in weights):
            return TokenizedExample(ids, ((0, length),), length)
        return TokenizedExample(ids, tuple(spans), length, tuple(weights))

    def answer_tokens(self, max_seq_length: int) -> NDArray[np.int64]:
        """Return for each row how many tokens carry a loss when it is cut; see `TokenizedExample.answer_tokens`."""
        return answer_tokens(self._spans, self._span_counts, max_seq_length)


class TokenizedRows(Indexed[TokenizedExample]):
    """Some rows of a table in an order of their own, each cut to the longest length allowed; indexable like a list."""

    def __init__(self, table: TokenTable, positions: NDArray[np.int64], max_seq_length: int) -> None:
        self._table = table
        self._max_seq_length = max_seq_length
        self.positions = positions
        """Place of each row in the table."""

    def __len__(self) -> int:
        return len(self.positions)

    def at(self, index: int) -> TokenizedExample:
        """Return the row at a place."""
        return self._table.row(int(self.positions[index]), self._max_seq_length)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, in order, without reading the rows."""
        lengths: list[int] = np.minimum(self._table.lengths[self.positions], self._max_seq_length).tolist()
        return lengths


def _at(batch: pa.RecordBatch, name: str, place: int) -> NDArray[np.int32]:
    values: NDArray[np.int32] = batch.column(name)[place].values.to_numpy()
    return values


def _weights(batch: TokenBatch) -> pa.ListArray:
    """Return the weights of each row that has any but 1."""
    if batch.span_weights is None:
        return lists(np.empty(0, np.float32), np.zeros(len(batch), np.int32))
    row_of = np.repeat(np.arange(len(batch)), batch.span_counts)
    weighted = np.bincount(row_of[batch.span_weights != 1], minlength=len(batch)) > 0
    return lists(batch.span_weights[weighted[row_of]], np.where(weighted, batch.span_counts, 0))


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, np.int32)
