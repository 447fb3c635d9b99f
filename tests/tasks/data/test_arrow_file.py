"""Columns that are made of buffers hold what pyarrow makes of the same values."""

import numpy as np
import pyarrow as pa
import pytest

from tasks.data.arrow_file import fixed, lists, numbers, texts


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (numbers(np.array([3, -1, 2**31 - 1], np.int32)), pa.array([3, -1, 2**31 - 1], pa.int32())),
        (numbers(np.arange(10, dtype=np.int64)[::3]), pa.array([0, 3, 6, 9], pa.int64())),
        (numbers(np.arange(11) % 3 == 0), pa.array([place % 3 == 0 for place in range(11)])),
        (numbers(np.empty(0, np.float32)), pa.array([], pa.float32())),
        (texts([b"", "é 🦊".encode(), b"a"]), pa.array(["", "é 🦊", "a"], pa.large_string())),
        (texts([b"", b"a"]), pa.array(["", "a"], pa.large_string())),
        (fixed([b"ab", b"\0c"], 2), pa.array([b"ab", b"\0c"], pa.binary(2))),
        (
            lists(np.array([1, 2, 3], np.int32), np.array([2, 0, 1], np.int32)),
            pa.array([[1, 2], [], [3]], pa.list_(pa.int32())),
        ),
        (
            lists(np.empty(0, np.float32), np.zeros(2, np.int32)),
            pa.array([[], []], pa.list_(pa.float32())),
        ),
    ],
)
def test_a_column_is_what_pyarrow_makes(made, expected):
    made.validate(full=True)
    assert made.equals(expected)
    assert made.type == expected.type
