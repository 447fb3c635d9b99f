"""What training reads as a row: a conversation, or a window of at most so many tokens of a text or a conversation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.data.chat_windows import SplitRows
from tasks.data.indexed import Indexed
from tasks.data.split import Positions
from tasks.data.tokenized_rows import TokenTable
from tasks.data.tokenizing import TokenizedExample


class WindowedRows(Indexed[TokenizedExample]):
    """The windows of some rows, read when they are looked at; indexable like a list."""

    def __init__(self, tables: tuple[TokenTable, ...], places: NDArray[np.int64]) -> None:
        self._tables = tables
        self._places = places
        """(windows, 4): of each the table, the row it begins in, the token of that row, and its number of tokens."""

    def __len__(self) -> int:
        return len(self._places)

    def at(self, index: int) -> TokenizedExample:
        """Return the row at a place."""
        number, position, start, length = map(int, self._places[index])
        table = self._tables[number]
        if table.is_text[position]:
            return table.text(position, start, length)
        return table.row(position, length)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each window, in order, without reading the rows."""
        lengths: list[int] = self._places[:, 3].tolist()
        return lengths


@dataclass(frozen=True, slots=True)
class WindowedSide:
    """One side of a split as training reads it, with what became of its rows."""

    windows: WindowedRows
    kinds: tuple[str, ...]
    """Which rows are read as more than one window, or with others as one: "text", "split"; none if each is its own."""
    rows: int
    """Rows of the data set that are in the windows, and `full_lengths` the tokens of all, before any cut."""
    full_lengths: NDArray[np.int32]
    tokens: int
    answer_tokens: int
    cut_rows: int

    @property
    def window_count(self) -> int:
        """What a pass over them reads."""
        return len(self.windows)


def window_lengths(tokens: int, max_seq_length: int) -> list[int]:
    """Return how many tokens each window of a text has; see `window_rows`."""
    full, rest = divmod(tokens, max_seq_length)
    lengths = [max_seq_length] * full + [rest] * (rest > 0)
    if rest == 1 and full:
        lengths[-2:] = [max_seq_length - 1, 2]
    return lengths


def window_rows(
    table: TokenTable,
    positions: Positions,
    max_seq_length: int,
    split: SplitRows | None = None,
    shuffled_by: NDArray[np.uint8] | None = None,
) -> WindowedSide:
    """Return the windows of the rows at `positions`, in their order.

    A text is read as consecutive windows of `max_seq_length` tokens, nothing lost or added, and so are the pieces of
    one document that follow each other in the table and are all among `positions`. None has only one token, which
    nothing would predict: the one before it then gives it another. A conversation is a row, cut if it is longer, or the
    windows that `split` has of it. What keeps nothing to learn is left out. With the rows' hashes in `shuffled_by`
    windows are in an order of those, if any row has several: the first of them are a random sample.
    """
    runs = _Runs.of(table, positions)
    counts = np.where(runs.is_text, -(-runs.lengths // max_seq_length), 1)
    useful = np.where(runs.is_text, runs.lengths > 1, table.answer_tokens(max_seq_length)[runs.starts] > 0)
    is_split, firsts = np.zeros(len(counts), np.bool_), np.zeros(len(counts), np.int64)
    if split is not None:
        is_split = np.isin(runs.starts, split.positions)
        of_split = np.searchsorted(split.positions, runs.starts[is_split])
        counts[is_split], firsts[is_split] = split.counts[of_split], (np.cumsum(split.counts) - split.counts)[of_split]
        useful |= is_split
    counts[~useful] = 0
    of = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts, ends = number * max_seq_length, np.minimum((number + 1) * max_seq_length, runs.lengths[of])
    is_lonely = (runs.is_text & (runs.lengths % max_seq_length == 1) & (counts > 1))[of]
    starts -= is_lonely & (number == counts[of] - 1)
    ends -= is_lonely & (number == counts[of] - 2)
    first_tokens = np.cumsum(table.lengths, dtype=np.int64) - table.lengths
    tokens = first_tokens[runs.starts[of]] + starts
    rows = np.searchsorted(first_tokens, tokens, side="right") - 1
    places = np.stack([np.zeros_like(rows), rows, tokens - first_tokens[rows], ends - starts], axis=1)
    split_windows = is_split[of]
    answers = np.where(runs.is_text[of], ends - starts - 1, table.answer_tokens(max_seq_length)[rows])
    if split is not None:
        windows = (firsts[of] + number)[split_windows]
        lengths = split.table.lengths[windows]
        places[split_windows] = np.stack([np.ones_like(windows), windows, np.zeros_like(windows), lengths], axis=1)
        answers[split_windows] = split.table.answer_tokens(max_seq_length)[windows]
    cut = useful & ~runs.is_text & ~is_split & (runs.lengths > max_seq_length)
    kinds = [("text", runs.is_text & useful & ((counts > 1) | (runs.rows > 1))), ("split", is_split)]
    if shuffled_by is not None and counts.max(initial=0) > 1:
        places = places[np.argsort(_mixed(shuffled_by[runs.starts[of]], number), kind="stable")]
    return WindowedSide(
        WindowedRows((table,) if split is None else (table, split.table), places),
        tuple(kind for kind, are in kinds if are.any()),
        rows=int(runs.rows[useful].sum()),
        full_lengths=table.lengths[positions],
        tokens=int(places[:, 3].sum()),
        answer_tokens=int(answers.sum()),
        cut_rows=int(cut.sum()),
    )


@dataclass(frozen=True, slots=True)
class _Runs:
    """Rows that follow each other in the table and are one document; any other row by itself."""

    starts: Positions
    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]
    is_text: NDArray[np.bool_]

    @classmethod
    def of(cls, table: TokenTable, positions: Positions) -> "_Runs":
        """Return the runs among `positions`, in the order of their first rows there."""
        wanted = np.zeros(len(table), np.bool_)
        wanted[positions] = True
        begins = wanted.copy()
        begins[1:] &= ~(wanted[:-1] & table.goes_on[:-1])
        members, run_of = np.flatnonzero(wanted), np.cumsum(begins)[wanted] - 1
        lengths = np.bincount(run_of, table.lengths[members]).astype(np.int64)
        starts = positions[begins[positions]]
        order = np.searchsorted(np.flatnonzero(begins), starts)
        return cls(starts, np.bincount(run_of)[order], lengths[order], table.is_text[starts])


def _mixed(hashes: NDArray[np.uint8], number: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a random-looking number for each window of each row (splitmix64; Steele et al. 2014)."""
    mixed = np.ascontiguousarray(hashes[:, :8]).view(np.uint64).ravel()
    mixed = mixed + number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
