"""Arrow files: written in large batches, read by single rows of a mapped file, or batch by batch.

Columns are made of their buffers: `pyarrow.array` imports pandas, a third of a second for nothing.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ROWS_PER_BATCH = 4096
"""The kernel reads ahead 64 kB around a page. In batches much larger than that, reading one narrow column leaves most
of the file unread and out of this process's memory."""
SIZE_PER_BATCH = 4_000_000
"""Characters or tokens; fewer rows go together where they are long."""


def numbers(values: NDArray[Any]) -> pa.Array:
    """Return a column of numbers, or of truth values."""
    if values.dtype == np.bool_:
        packed = pa.py_buffer(np.packbits(values, bitorder="little"))
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, packed])
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, _buffer(values)])


def texts(values: Sequence[bytes]) -> pa.Array:
    """Return a column of large strings, of their UTF-8."""
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=offsets[1:])
    return pa.Array.from_buffers(
        pa.large_string(), len(values), [None, _buffer(offsets), pa.py_buffer(b"".join(values))]
    )


def fixed(values: Sequence[bytes], width: int) -> pa.Array:
    """Return a column of byte strings of one width."""
    return pa.Array.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(b"".join(values))])


def lists(values: NDArray[Any], lengths: NDArray[np.int32]) -> pa.ListArray:
    """Return a column of lists of numbers, which follow each other in `values`."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    inner = numbers(values)
    return pa.Array.from_buffers(pa.list_(inner.type), len(lengths), [None, _buffer(offsets)], children=[inner])


def _buffer(values: NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(np.ascontiguousarray(values))


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield a file's batches one after the other; each has its own memory, freed with its last reference."""
    with pa.OSFile(str(path)) as file:
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


class MappedFile:
    """A file's batches as views on the mapped file, and its rows by their position.

    Raises OSError or `pyarrow.ArrowInvalid` for a file that is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self.batches: list[pa.RecordBatch] = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._ends: NDArray[np.int64] = np.cumsum([batch.num_rows for batch in self.batches], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def find(self, position: int) -> tuple[pa.RecordBatch, int]:
        """Return the batch that holds a row, and the row's place in it; raises IndexError."""
        if not 0 <= position < len(self):
            raise IndexError(position)
        number = int(np.searchsorted(self._ends, position, side="right"))
        batch = self.batches[number]
        return batch, position - int(self._ends[number]) + int(batch.num_rows)
