"""Padding, shifting and checking of rows."""

import pytest

from tasks.training.batch import check_rows, collate, longest_first
from tasks.training.errors import RowError
from tests.tasks.training.job import Row, make_rows


def test_collate_pads_right_and_shifts_the_labels():
    batch = collate([Row([5, 6, 7], [-100, 6, 7]), Row([8, 9], [8, 9])], pad_token_id=1)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.targets.tolist() == [[6, 7, -100], [9, -100, -100]]
    assert (batch.labelled, batch.tokens) == (3, 5)


def test_micro_batches_hold_every_row_and_little_padding():
    rows = make_rows(10)
    batches = [collate(part, pad_token_id=0) for part in longest_first(rows, 4)]
    assert [len(batch.input_ids) for batch in batches] == [4, 4, 2]
    assert sum(batch.tokens for batch in batches) == sum(len(row.input_ids) for row in rows)
    lengths = sorted((len(row.input_ids) for row in rows), reverse=True)
    assert [batch.input_ids.shape[1] for batch in batches] == lengths[::4]


def test_rows_beyond_a_length_and_within_it_are_in_batches_of_their_own():
    rows = [Row([3] * length, [3] * length) for length in (2, 9, 4, 8, 7, 5, 3)]
    lengths = [[len(row.input_ids) for row in batch] for batch in longest_first(rows, 2, switch=5)]
    assert lengths == [[9, 8], [7], [5, 4], [3, 2]]
    assert [len(batch) for batch in longest_first(rows, 4, switch=99)] == [4, 3]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (Row([], []), "no answer token"),
        (Row([4], [4]), "no answer token"),
        (Row([4, 5], [4, -100]), "no answer token"),
        (Row([4, 5], [4]), "2 tokens but 1 labels"),
        (Row([4] * 11, [4] * 11), "11 tokens, the model takes 10"),
    ],
)
def test_a_row_that_can_not_be_trained_on_is_named(row, named):
    with pytest.raises(RowError, match=f"^row 1 has {named}"):
        check_rows([Row([4, 5], [4, 5]), row], longest=10)
