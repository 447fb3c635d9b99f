"""Arrow files read in two ways: batch by batch, or by single rows of a mapped file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield a file's batches one after the other, each in memory of its own: copy what is to outlive it.

    They are read, not mapped: the kernel maps what lies around each page that is looked at, so that a walk through one
    column would make all of a file count as this process's memory. Raises OSError or `pyarrow.ArrowInvalid` for a file
    that is missing or damaged.
    """
    with pa.OSFile(str(path)) as file:
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


class MappedRows:
    """Rows of a file, found by their position; a batch is mapped when one of its rows is first looked at."""

    def __init__(self, path: Path, batch_rows: Sequence[int]) -> None:
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._ends: NDArray[np.int64] = np.cumsum(batch_rows, dtype=np.int64)
        self._batches: dict[int, Any] = {}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def find(self, position: int) -> tuple[pa.RecordBatch, int]:
        """Return the batch that holds a row, and the row's place in it."""
        if not 0 <= position < len(self):
            raise IndexError(position)
        number = int(np.searchsorted(self._ends, position, side="right"))
        if number not in self._batches:
            self._batches[number] = self._reader.get_batch(number)
        batch = self._batches[number]
        return batch, position - int(self._ends[number]) + int(batch.num_rows)
