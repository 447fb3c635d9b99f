"""What preparation asks of a data set's rows, and the rows of one that is small enough for memory."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.data.examples import Example

HASH_BYTES = 32


class ExampleRows(Protocol):
    """The rows of a data set, in a fixed order. Iterating reads one after the other in bounded memory."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Example]: ...

    def example(self, position: int) -> Example:
        """Return one row."""
        ...

    def number(self, position: int) -> int:
        """Return where a row stands in what it was read from, from 1."""
        ...

    @property
    def hashes(self) -> NDArray[np.uint8]:
        """The rows' content hashes: (rows, 32) bytes."""
        ...


class ListedExamples:
    """Rows held in memory."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self._examples)

    def example(self, position: int) -> Example:
        """Return one row."""
        return self._examples[position]

    def number(self, position: int) -> int:
        """Return the row's place in the list, from 1."""
        return position + 1

    @property
    def hashes(self) -> NDArray[np.uint8]:
        """The rows' content hashes."""
        digests = b"".join(example.digest for example in self._examples)
        return np.frombuffer(digests, np.uint8).reshape(-1, HASH_BYTES)
