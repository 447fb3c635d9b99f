"""Splits rows into training and held-out rows by their content hashes, not by their positions."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.data.examples import DatasetError
from tasks.data.rows import HASH_BYTES

HASH_SPAN = 2 ** (8 * HASH_BYTES)

Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Positions of rows in their data set; `held_out` counts in the own held-out data set where there is one."""

    train: Positions
    held_out: Positions
    leaked_rows: int = 0
    """Rows left out of training because the own held-out data set has them too."""


def split_rows(hashes: NDArray[np.uint8], held_out_fraction: float, held_out: NDArray[np.uint8] | None = None) -> Split:
    """Split by an own held-out data set's hashes if there are any (`split_from_held_out`), else by `split_by_hash`."""
    return split_by_hash(hashes, held_out_fraction) if held_out is None else split_from_held_out(hashes, held_out)


def split_by_hash(hashes: NDArray[np.uint8], held_out_fraction: float = 0.1) -> Split:
    """Hold a row out when its hash lies in the lowest `held_out_fraction` of hashes; `hashes` are (rows, 32) bytes.

    So a row falls on the same side whatever other rows come with it, and equal rows stay together. Training rows keep
    their order; held-out rows come in hash order, so that the first N of them are a stable random sample. The size of
    the held-out side is `held_out_fraction` of the rows only on average; where a side would stay empty it gets the one
    row nearest to the threshold.

    Raises DatasetError for fewer than two different rows, or for a fraction that is not between 0 and 1.
    """
    if not 0 < held_out_fraction < 1:
        raise DatasetError(f"held_out_fraction is {held_out_fraction}; it must lie between 0 and 1, both excluded")
    if len(hashes) == 0 or (hashes == hashes[0]).all():
        raise DatasetError(
            f"the data set has {min(len(hashes), 1)} different rows in {len(hashes)}; at least 2 are needed, "
            "one to train on and one to hold out"
        )
    keys = _sortable(hashes)
    threshold = math.ceil(held_out_fraction * HASH_SPAN)
    held = keys < np.bytes_(threshold.to_bytes(HASH_BYTES, "big"))
    if not held.any():
        held = keys == np.sort(keys)[0]
    elif held.all():
        held = keys != np.sort(keys)[-1]
    return Split(np.flatnonzero(~held), _in_hash_order(keys, np.flatnonzero(held)))


def split_from_held_out(hashes: NDArray[np.uint8], held_out: NDArray[np.uint8]) -> Split:
    """Train on the rows that the held-out data set does not have; both arguments are (rows, 32) bytes of hashes.

    Raises DatasetError if either side has no row.
    """
    if len(held_out) == 0:
        raise DatasetError("the held-out data set has no row")
    # 8 bytes are enough to distinguish rows: of ten million, two differ but agree in them once in 100,000 data sets.
    leaked = np.isin(_prefixes(hashes), _prefixes(held_out))
    if leaked.all():
        raise DatasetError(f"all {len(hashes)} rows are in the held-out data set too, so none is left to train on")
    keys = _sortable(held_out)
    return Split(np.flatnonzero(~leaked), _in_hash_order(keys, np.arange(len(keys))), int(leaked.sum()))


def count_duplicates(prefixes: NDArray[np.uint64]) -> int:
    """Return how many rows repeat an earlier one, from the first 8 bytes of their hashes."""
    return len(prefixes) - len(np.unique(prefixes))


def _in_hash_order(keys: NDArray[np.bytes_], positions: Positions) -> Positions:
    return positions[np.argsort(keys[positions], kind="stable")]


def _sortable(hashes: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    # numpy compares byte strings as if zero bytes followed them, so that a last byte of zero makes no difference.
    return np.ascontiguousarray(hashes).view(f"S{HASH_BYTES}").ravel()


def _prefixes(hashes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(hashes[:, :8]).view(np.uint64).ravel()
