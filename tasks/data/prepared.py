"""Prepares a data set: tokenized once for each content, then split, and cut as a job or an evaluation asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from configs.recipe import CutRows
from tasks.data.chat_windows import split_conversations, too_long_rows
from tasks.data.examples import DatasetError, Example
from tasks.data.fingerprint import dataset_fingerprint, tokenizer_content
from tasks.data.indexed import Indexed
from tasks.data.report import CountedSide, PreparationReport, Side, preparation_report
from tasks.data.rows import ExampleRows
from tasks.data.split import Positions, split_rows
from tasks.data.token_cache import cached_tokens, tokens_folder
from tasks.data.tokenized_rows import TokenizedRows, TokenTable
from tasks.data.windows import WindowedRows, WindowedSide, window_rows

LONG_ROWS_NAMED = 5
"""Rows that an error names."""


Rows = TokenizedRows | WindowedRows


class ExamplesOf(Indexed[Example]):
    """The texts of tokenized rows, row by row, read when they are looked at.

    Each ends with the last answer that is left in its token ids, which is the one that generation is asked for.
    """

    def __init__(self, examples: ExampleRows, rows: TokenizedRows) -> None:
        self._examples = examples
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, index: int) -> Example:
        """Return the row at a place."""
        example = self._examples.example(int(self._rows.positions[index]))
        if example.text is not None:
            return example
        answers = [turn for turn, message in enumerate(example.messages) if message.is_target]
        last = answers[len(self._rows[index].learned_spans) - 1]
        return Example(example.messages[: last + 1], tools=example.tools)


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """Token ids to train on and to measure the held-out loss on, memory-mapped from the cache."""

    train: Rows
    held_out: Rows
    fingerprint: str
    report: PreparationReport


@dataclass(frozen=True, slots=True)
class PreparedDataset(PreparedRows):
    """The same for an evaluation: each row of the data set is one, and has its text."""

    train: TokenizedRows
    held_out: TokenizedRows
    held_out_examples: ExamplesOf
    """The texts of `held_out`, row by row, for generation."""


def prepare(
    examples: ExampleRows,
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    cache_dir: Path,
    held_out_fraction: float = 0.1,
    held_out: ExampleRows | None = None,
) -> PreparedDataset:
    """Return `examples` split, tokenized and cut to `max_seq_length` tokens; see `cached_tokens` for the cache.

    Every row is cut, long texts too: for training there is `prepare_training`. With an own `held_out` data set all of
    `examples` are trained on, less those that it has too, and `held_out_fraction` counts for nothing. Memory grows by
    about 100 bytes a row: texts and token ids stay on disk.

    Raises DatasetError if the rows cannot be split (see `tasks.data.split`) or rendered (see `Renderer.render`), or if
    a side keeps no usable row.
    """
    both = _Tokenized(examples, held_out, tokenizer, cache_dir, held_out_fraction)
    train = Side.of(both.table, both.split.train, max_seq_length)
    side = Side.of(both.held_out_table, both.split.held_out, max_seq_length)
    _require_rows(train, side, max_seq_length)
    held_out_rows = TokenizedRows(both.held_out_table, side.usable, max_seq_length)
    return PreparedDataset(
        TokenizedRows(both.table, train.usable, max_seq_length),
        held_out_rows,
        both.fingerprint(max_seq_length),
        preparation_report(train, side, both.split.leaked_rows),
        ExamplesOf(both.held_out, held_out_rows),
    )


def prepare_training(
    examples: ExampleRows,
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    cache_dir: Path,
    cut_rows: CutRows = "truncate",
    held_out_fraction: float = 0.1,
    held_out: ExampleRows | None = None,
) -> PreparedRows:
    """Return `examples` split and tokenized, in windows of at most `max_seq_length` tokens (`tasks.data.windows`).

    `cut_rows` says what becomes of longer conversations. All else is as in `prepare`; with "error" or "split" a
    DatasetError also says, by its number, which row is too long.
    """
    both = _Tokenized(examples, held_out, tokenizer, cache_dir, held_out_fraction)

    def windowed(rows: ExampleRows, table: TokenTable, positions: Positions, *, shuffled: bool) -> WindowedSide:
        if cut_rows == "error":
            _require_short_rows(rows, table, positions, max_seq_length)
        split = None
        if cut_rows == "split":
            split = split_conversations(rows, table, tokenizer, max_seq_length, cache_dir, both.content)
        return window_rows(table, positions, max_seq_length, split, rows.hashes if shuffled else None)

    train = windowed(examples, both.table, both.split.train, shuffled=False)
    side = windowed(both.held_out, both.held_out_table, both.split.held_out, shuffled=True)
    _require_rows(train, side, max_seq_length)
    fingerprint = both.fingerprint(max_seq_length, sorted({*train.kinds, *side.kinds}))
    return PreparedRows(
        train.windows, side.windows, fingerprint, preparation_report(train, side, both.split.leaked_rows)
    )


class _Tokenized:
    """A data set and what is held out of it, tokenized and split."""

    def __init__(
        self,
        examples: ExampleRows,
        held_out: ExampleRows | None,
        tokenizer: PreTrainedTokenizerBase,
        cache_dir: Path,
        held_out_fraction: float,
    ) -> None:
        self._hashes, self.content = examples.hashes, tokenizer_content(tokenizer)
        self.table = cached_tokens(examples, tokenizer, tokens_folder(cache_dir, self._hashes, self.content))
        self._own = held_out.hashes if held_out is not None else None
        self._fraction = held_out_fraction
        self.split = split_rows(self._hashes, held_out_fraction, self._own)
        if held_out is None or self._own is None:
            self.held_out, self.held_out_table = examples, self.table
        else:
            self.held_out = held_out
            folder = tokens_folder(cache_dir, self._own, self.content)
            self.held_out_table = cached_tokens(held_out, tokenizer, folder)

    def fingerprint(self, max_seq_length: int, windows: Sequence[str] = ()) -> str:
        """Return the fingerprint of the rows as they are read."""
        fraction = self._fraction if self._own is None else 0.0
        return dataset_fingerprint(self._hashes, self.content, max_seq_length, fraction, self._own, windows)


def _require_rows(train: CountedSide, held_out: CountedSide, max_seq_length: int) -> None:
    for name, side in (("train on", train), ("hold out", held_out)):
        if side.rows == 0:
            raise DatasetError(
                f"none of the {len(side.full_lengths)} rows to {name} keeps an answer token within "
                f"max_seq_length={max_seq_length}; raise it, or give shorter prompts"
            )


def _require_short_rows(rows: ExampleRows, table: TokenTable, positions: Positions, max_seq_length: int) -> None:
    """Raise DatasetError, with numbers and lengths, for conversations among `positions` that are too long."""
    long = np.intersect1d(too_long_rows(table, max_seq_length), positions)
    if len(long) == 0:
        return
    named = ", ".join(f"row {rows.number(row)} has {table.lengths[row]}" for row in long[:LONG_ROWS_NAMED].tolist())
    raise DatasetError(
        f"{len(long)} of {len(positions)} rows are longer than max_seq_length={max_seq_length} tokens: {named}"
        f"{', and so on' if len(long) > LONG_ROWS_NAMED else ''}; raise it, leave them out, or set cut_rows to split "
        "or truncate"
    )
