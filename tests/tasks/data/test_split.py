import random

import numpy as np
import pytest

from tasks.data.examples import DatasetError, Example
from tasks.data.rows import ListedExamples
from tasks.data.split import count_duplicates, split_by_hash, split_from_held_out


def numbered(count: int) -> list[Example]:
    return [Example(text=f"text number {number}") for number in range(count)]


def hashes_of(rows: list[Example]) -> np.ndarray:
    return ListedExamples(rows).hashes


def sides(rows: list[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    split = split_by_hash(hashes_of(rows), fraction)
    return [rows[position] for position in split.train], [rows[position] for position in split.held_out]


def test_every_row_is_on_one_side_and_train_keeps_its_order():
    rows = numbered(2000)
    train, held_out = sides(rows, 0.1)
    assert sorted(train + held_out, key=rows.index) == rows
    assert train == sorted(train, key=rows.index)
    # 10% of 2,000 give 200 ± 13 (one standard deviation).
    assert 140 < len(held_out) < 260


def test_held_out_rows_come_in_hash_order():
    _, held_out = sides(numbered(500), 0.2)
    assert held_out == sorted(held_out, key=lambda row: row.content_hash)


def test_a_row_stays_on_its_side_when_the_order_changes_and_rows_are_added_or_removed():
    rows = numbered(1000)
    _, held_out = sides(rows, 0.1)
    shuffled = random.Random(0).sample(rows, len(rows))
    assert sides(shuffled, 0.1)[1] == held_out
    larger_train, larger_held_out = sides(numbered(1500), 0.1)
    assert set(held_out) <= set(larger_held_out)
    assert not set(held_out) & set(larger_train)
    _, smaller_held_out = sides(rows[:500], 0.1)
    assert set(smaller_held_out) == set(held_out) & set(rows[:500])


def test_duplicates_never_straddle():
    rows = numbered(50) * 3
    train, held_out = sides(rows, 0.3)
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 150


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
def test_two_rows_are_enough_for_two_sides(fraction):
    for first in range(20):
        rows = numbered(first + 2)[first:]
        train, held_out = sides(rows, fraction)
        assert len(train) == len(held_out) == 1


def test_copies_of_one_row_are_refused():
    with pytest.raises(DatasetError, match="1 different rows in 5; at least 2"):
        sides(numbered(1) * 5, 0.1)
    with pytest.raises(DatasetError, match="0 different rows in 0"):
        sides([], 0.1)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(DatasetError, match="must lie between 0 and 1"):
        sides(numbered(5), fraction)


@pytest.mark.parametrize("fraction", [0.05, 1 / 3, 1e-3])
def test_the_threshold_is_exact(fraction):
    """Against whole numbers of 256 bits, row by row."""
    rows = numbered(3000)
    held = {row for row in rows if int(row.content_hash, 16) < fraction * 2**256}
    assert held
    assert set(sides(rows, fraction)[1]) == held


def test_hashes_that_differ_in_their_last_byte_only_are_distinguished():
    hashes = np.zeros((3, 32), np.uint8)
    hashes[1:, 31] = [1, 255]
    split = split_by_hash(hashes, 0.5)
    assert (split.held_out.tolist(), split.train.tolist()) == ([0, 1], [2])


def test_with_an_own_held_out_set_what_it_has_is_left_out_of_training():
    rows, own = numbered(10), numbered(30)[8:]
    split = split_from_held_out(hashes_of([*rows, rows[9]]), hashes_of(own))
    assert split.train.tolist() == list(range(8))
    assert split.leaked_rows == 3
    assert sorted(split.held_out) == list(range(22))
    held_out = [own[position].content_hash for position in split.held_out]
    assert held_out == sorted(held_out)


def test_an_own_held_out_set_that_leaves_no_training_row_or_is_empty_is_refused():
    with pytest.raises(DatasetError, match="all 3 rows are in the held-out data set too"):
        split_from_held_out(hashes_of(numbered(3)), hashes_of(numbered(4)))
    with pytest.raises(DatasetError, match="has no row"):
        split_from_held_out(hashes_of(numbered(3)), hashes_of([]))


def test_duplicates_are_counted_once_for_each_repetition():
    hashes = hashes_of(numbered(5) + numbered(2) * 2)
    assert count_duplicates(np.ascontiguousarray(hashes[:, :8]).view(np.uint64).ravel()) == 4
