"""Prepares a data set for training: tokenized once for each content, then split and cut as a job asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from transformers import PreTrainedTokenizerBase

from tasks.data.examples import DatasetError, Example
from tasks.data.fingerprint import dataset_fingerprint, tokenizer_content
from tasks.data.report import PreparationReport, Side, preparation_report
from tasks.data.rows import ExampleRows
from tasks.data.split import split_rows
from tasks.data.token_cache import cached_tokens, tokens_folder
from tasks.data.tokenized_rows import TokenizedRows


class ExamplesOf(Sequence[Example]):
    """The texts of tokenized rows, row by row, read when they are looked at.

    Each ends with the last answer that is left in its token ids, which is the one that generation is asked for.
    """

    def __init__(self, examples: ExampleRows, rows: TokenizedRows) -> None:
        self._examples = examples
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        example = self._examples.example(int(self._rows.positions[index]))
        if example.text is not None:
            return example
        answers = [turn for turn, message in enumerate(example.messages) if message.is_target]
        last = answers[len(self._rows[index].learned_spans) - 1]
        return Example(example.messages[: last + 1], tools=example.tools)


@dataclass(frozen=True, slots=True)
class PreparedDataset:
    """Token ids to train on and to evaluate on, memory-mapped from the cache."""

    train: TokenizedRows
    held_out: TokenizedRows
    held_out_examples: ExamplesOf
    """The texts of `held_out`, row by row, for generation."""
    fingerprint: str
    report: PreparationReport


def prepare(
    examples: ExampleRows,
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    cache_dir: Path,
    held_out_fraction: float = 0.1,
    held_out: ExampleRows | None = None,
) -> PreparedDataset:
    """Return `examples` split, tokenized and cut to `max_seq_length` tokens; see `cached_tokens` for the cache.

    With an own `held_out` data set all of `examples` are trained on, less those that it has too, and
    `held_out_fraction` counts for nothing. Memory grows by about 100 bytes a row: texts and token ids stay on disk.

    Raises DatasetError if the rows cannot be split (see `tasks.data.split`) or rendered (see `Renderer.render`), or if
    a side keeps no usable row.
    """
    hashes, content = examples.hashes, tokenizer_content(tokenizer)
    table = cached_tokens(examples, tokenizer, tokens_folder(cache_dir, hashes, content))
    own = held_out.hashes if held_out is not None else None
    split = split_rows(hashes, held_out_fraction, own)
    if held_out is None or own is None:
        fingerprint = dataset_fingerprint(hashes, content, max_seq_length, held_out_fraction)
        held_out, held_out_table = examples, table
    else:
        fingerprint = dataset_fingerprint(hashes, content, max_seq_length, 0.0, own)
        held_out_table = cached_tokens(held_out, tokenizer, tokens_folder(cache_dir, own, content))
    train_side = Side.of(table, split.train, max_seq_length)
    held_out_side = Side.of(held_out_table, split.held_out, max_seq_length)
    for name, side in (("train on", train_side), ("hold out", held_out_side)):
        if len(side.usable) == 0:
            raise DatasetError(
                f"none of the {len(side.positions)} rows to {name} keeps an answer token within "
                f"max_seq_length={max_seq_length}; raise it, or give shorter prompts"
            )
    held_out_rows = TokenizedRows(held_out_table, held_out_side.usable, max_seq_length)
    return PreparedDataset(
        TokenizedRows(table, train_side.usable, max_seq_length),
        held_out_rows,
        ExamplesOf(held_out, held_out_rows),
        fingerprint,
        preparation_report(train_side, held_out_side, split.leaked_rows),
    )
