import random

import pytest

from tasks.data.examples import DatasetError, Example
from tasks.data.split import split_by_hash


def numbered(count: int) -> list[Example]:
    return [Example("text", "", f"text number {number}") for number in range(count)]


def test_every_row_is_on_one_side_and_train_keeps_its_order():
    rows = numbered(2000)
    train, held_out = split_by_hash(rows, 0.1)
    assert sorted(train + held_out, key=rows.index) == rows
    assert train == sorted(train, key=rows.index)
    # 10% of 2,000 give 200 ± 13 (one standard deviation).
    assert 140 < len(held_out) < 260


def test_held_out_rows_come_in_hash_order():
    _, held_out = split_by_hash(numbered(500), 0.2)
    assert held_out == sorted(held_out, key=lambda row: row.content_hash)


def test_a_row_stays_on_its_side_when_the_order_changes_and_rows_are_added_or_removed():
    rows = numbered(1000)
    _, held_out = split_by_hash(rows, 0.1)
    shuffled = random.Random(0).sample(rows, len(rows))
    assert split_by_hash(shuffled, 0.1)[1] == held_out
    larger_train, larger_held_out = split_by_hash(numbered(1500), 0.1)
    assert set(held_out) <= set(larger_held_out)
    assert not set(held_out) & set(larger_train)
    _, smaller_held_out = split_by_hash(rows[:500], 0.1)
    assert set(smaller_held_out) == set(held_out) & set(rows[:500])


def test_duplicates_never_straddle():
    rows = numbered(50) * 3
    train, held_out = split_by_hash(rows, 0.3)
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 150


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
def test_two_rows_are_enough_for_two_sides(fraction):
    for first in range(20):
        rows = numbered(first + 2)[first:]
        train, held_out = split_by_hash(rows, fraction)
        assert len(train) == len(held_out) == 1


def test_copies_of_one_row_are_refused():
    with pytest.raises(DatasetError, match="1 different rows in 5; at least 2"):
        split_by_hash(numbered(1) * 5)
    with pytest.raises(DatasetError, match="0 different rows in 0"):
        split_by_hash([])


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(DatasetError, match="must lie between 0 and 1"):
        split_by_hash(numbered(5), fraction)
