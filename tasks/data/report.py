"""Counts the rows of a data set that are trained on, held out, cut or left out, for one split and one length."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.data.split import Positions
from tasks.data.tokenized_rows import TokenTable


@dataclass(frozen=True, slots=True)
class PreparationReport:
    """What became of the rows. `rows` = `train_rows` + `held_out_rows` + `unusable_rows` + `leaked_rows`."""

    rows: int
    train_rows: int
    held_out_rows: int
    tokens: int
    """Tokens of the kept rows, prompts included."""
    answer_tokens: int
    """Those of them that carry a loss."""
    cut_rows: int
    """Kept rows that lost their end."""
    unusable_rows: int
    """Rows left out because no answer token fitted into `max_seq_length`."""
    length_p50: int
    """Percentiles of the tokens of all rows before any cut: what `max_seq_length` would have to be."""
    length_p95: int
    length_max: int
    leaked_rows: int = 0
    """Rows left out of training because the own held-out data set has them too."""
    train_windows: int = 0
    """What an epoch reads of `train_rows`: each is one window, or several where it is longer than `max_seq_length`."""
    held_out_windows: int = 0


class CountedSide(Protocol):
    """One side of a split, counted."""

    @property
    def full_lengths(self) -> NDArray[np.int32]:
        """Tokens of each row that the side has, before any cut."""
        ...

    @property
    def rows(self) -> int:
        """Rows that keep something to learn; `tokens`, `answer_tokens` and `cut_rows` are theirs."""
        ...

    @property
    def window_count(self) -> int:
        """What a pass over them reads."""
        ...

    @property
    def tokens(self) -> int:
        """Those of the windows."""
        ...

    @property
    def answer_tokens(self) -> int:
        """Those of them that carry a loss."""
        ...

    @property
    def cut_rows(self) -> int:
        """Rows that lost their end."""
        ...


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a split: which rows of a table it has, and which of them keep something to learn when cut."""

    positions: Positions
    usable: Positions
    full_lengths: NDArray[np.int32]
    """Tokens of each of `positions`, before any cut."""
    tokens: int
    """Tokens of the usable rows when they are cut; `answer_tokens` and `cut_rows` are theirs too."""
    answer_tokens: int
    cut_rows: int

    @property
    def rows(self) -> int:
        """The number of usable rows."""
        return len(self.usable)

    @property
    def window_count(self) -> int:
        """The same: each is read as it is, cut."""
        return len(self.usable)

    @classmethod
    def of(cls, table: TokenTable, positions: Positions, max_seq_length: int) -> "Side":
        """Count the rows at `positions`."""
        answer_tokens = table.answer_tokens(max_seq_length)
        usable = positions[answer_tokens[positions] > 0]
        lengths = table.lengths[usable]
        return cls(
            positions,
            usable,
            full_lengths=table.lengths[positions],
            tokens=int(np.minimum(lengths, max_seq_length).sum(dtype=np.int64)),
            answer_tokens=int(answer_tokens[usable].sum()),
            cut_rows=int((lengths > max_seq_length).sum()),
        )


def preparation_report(train: CountedSide, held_out: CountedSide, leaked_rows: int) -> PreparationReport:
    """Return the counts of both sides together."""
    lengths = np.sort(np.concatenate([train.full_lengths, held_out.full_lengths]))
    return PreparationReport(
        rows=len(lengths) + leaked_rows,
        train_rows=train.rows,
        held_out_rows=held_out.rows,
        tokens=train.tokens + held_out.tokens,
        answer_tokens=train.answer_tokens + held_out.answer_tokens,
        cut_rows=train.cut_rows + held_out.cut_rows,
        unusable_rows=len(lengths) - train.rows - held_out.rows,
        length_p50=percentile(lengths, 0.50),
        length_p95=percentile(lengths, 0.95),
        length_max=int(lengths[-1]),
        leaked_rows=leaked_rows,
        train_windows=train.window_count,
        held_out_windows=held_out.window_count,
    )


def percentile(ordered: NDArray[np.int32], share: float) -> int:
    """Nearest rank: the smallest value that at least `share` of the values do not exceed."""
    return int(ordered[math.ceil(share * len(ordered)) - 1])
