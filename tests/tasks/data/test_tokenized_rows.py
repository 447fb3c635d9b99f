import numpy as np
import pytest

from tasks.data.tokenized_rows import TokenizedRows, TokenTable, TokenWriter
from tasks.data.tokenizing import TokenBatch, TokenizedExample


def batch_of(rows: list[TokenizedExample]) -> TokenBatch:
    return TokenBatch(
        np.array([token for row in rows for token in row.input_ids], np.int32),
        np.array([len(row.input_ids) for row in rows], np.int32),
        np.array([span for row in rows for span in row.learned_spans], np.int32).reshape(-1, 2),
        np.array([len(row.learned_spans) for row in rows], np.int32),
    )


@pytest.fixture
def rows() -> list[TokenizedExample]:
    """Enough for several batches of the file; each row differs, some have two answers and some begin with one."""
    made = []
    for number in range(10_000):
        length = 4 + number % 7
        spans = ((number % 2, 2), (3, length)) if number % 3 else ((2, length),)
        made.append(TokenizedExample([number + place for place in range(length)], spans, length))
    return made


@pytest.fixture
def table(rows, tmp_path) -> TokenTable:
    writer = TokenWriter(tmp_path / "rows.arrow")
    for start in range(0, len(rows), 300):
        writer.write(batch_of(rows[start : start + 300]))
    writer.close()
    writer.close()
    return TokenTable(tmp_path / "rows.arrow")


def test_rows_come_back_as_they_were(rows, table):
    assert len(table) == len(rows)
    assert [table.row(position, 100) for position in range(len(rows))] == rows
    assert table.lengths.tolist() == [len(row.input_ids) for row in rows]
    with pytest.raises(IndexError):
        table.row(len(rows), 100)


@pytest.mark.parametrize("longest", [1, 2, 3, 6])
def test_what_is_left_to_learn_is_counted_as_the_cut_rows_have_it(rows, table, longest):
    cut = [table.row(position, longest) for position in range(len(rows))]
    assert table.answer_tokens(longest).tolist() == [row.answer_tokens for row in cut]
    for whole, row in zip(rows, cut, strict=True):
        assert row.input_ids == whole.input_ids[:longest]
        assert row.labels == whole.labels[:longest]
        assert (row.was_cut, row.full_length) == (len(whole.input_ids) > longest, len(whole.input_ids))
        assert row.answer_tokens == sum(label != -100 for label in row.labels[1:])


def test_some_rows_in_an_order_of_their_own(rows, table):
    some = TokenizedRows(table, np.array([9_999, 0, 5_000]), 5)
    assert list(some) == [table.row(position, 5) for position in (9_999, 0, 5_000)]
    assert some[-1] == some[2]
    assert some[:2] == list(some)[:2]
    assert some.lengths == [len(row.input_ids) for row in some]
    with pytest.raises(IndexError):
        some[3]
