"""Counts what became of the rows while they are tokenized."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tasks.data.template import TokenizedExample


@dataclass(frozen=True, slots=True)
class PreparationReport:
    """What became of the rows. `rows` = `train_rows` + `held_out_rows` + `unusable_rows`."""

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


class RowTally:
    """Passes rows through, leaving out the unusable ones, and counts."""

    def __init__(self) -> None:
        self._full_lengths: list[int] = []
        self._tokens = 0
        self._answer_tokens = 0
        self._cut_rows = 0
        self._unusable_rows = 0

    def usable(self, rows: Iterable[TokenizedExample]) -> Iterator[tuple[int, TokenizedExample]]:
        """Yield (position, row) of each row that keeps a token to learn from."""
        for position, row in enumerate(rows):
            self._full_lengths.append(row.full_length)
            if row.answer_tokens == 0:
                self._unusable_rows += 1
                continue
            self._tokens += len(row.input_ids)
            self._answer_tokens += row.answer_tokens
            self._cut_rows += row.was_cut
            yield position, row

    def report(self, train_rows: int, held_out_rows: int) -> PreparationReport:
        """Return the counts, once both sides have passed through."""
        lengths = sorted(self._full_lengths)
        return PreparationReport(
            rows=len(lengths),
            train_rows=train_rows,
            held_out_rows=held_out_rows,
            tokens=self._tokens,
            answer_tokens=self._answer_tokens,
            cut_rows=self._cut_rows,
            unusable_rows=self._unusable_rows,
            length_p50=_percentile(lengths, 0.50),
            length_p95=_percentile(lengths, 0.95),
            length_max=lengths[-1],
        )


def _percentile(ordered: list[int], share: float) -> int:
    """Nearest rank: the smallest value that at least `share` of the values do not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]
