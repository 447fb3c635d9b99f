"""What is found out about a few rows at a time: which can be used, their tokens, and what a person should know."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from configs.recipe import CutRows
from tasks.data.chat_lines import chat_line
from tasks.data.chat_windows import Splitter
from tasks.data.examples import DatasetError, Example
from tasks.data.segments import RenderedExample
from tasks.data.source import SourceExample
from tasks.data.tokenizing import Encoder, TokenBatch, batched_by_size, characters_of, encoded_ahead
from tasks.data.tool_forms import ToolRenderer
from tasks.data.validation_report import RowErrors


@dataclass(slots=True)
class RowBatch:
    """Rows as they are stored, in columns, and counts of them; those in error are only counted."""

    errors: RowErrors
    numbers: list[int] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    """Each row's JSON (`Example.as_json`)."""
    digests: list[bytes] = field(default_factory=list)
    """Each row's `Example.digest`."""
    tokens: TokenBatch | None = None
    """None where there is no row."""
    bytes: int = 0
    """Of the rows as JSON lines."""
    extra_windows: int = 0
    """What rows that are split are more than one window each."""
    empty_answers: int = 0
    rows_losing_text: int = 0
    rows_with_special_tokens: int = 0
    weighted_rows: int = 0
    rows_told_in_words: int = 0


class _Read(NamedTuple):
    """A row that can be rendered."""

    number: int
    example: Example
    digest: bytes
    rendered: RenderedExample
    in_words: bool
    """Whether tools and calls are told in words."""


class RowReader:
    """Renders, tokenizes and counts rows, for one tokenizer and one length."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_seq_length: int, cut_rows: CutRows) -> None:
        self._max_seq_length = max_seq_length
        self._cut_rows = cut_rows
        self._renderer = ToolRenderer(tokenizer)
        self._encoder = Encoder(tokenizer)
        self._splitter = Splitter(tokenizer, max_seq_length) if cut_rows == "split" else None
        self._errors = RowErrors()

    def batches(self, rows: Iterable[SourceExample]) -> Generator[RowBatch, None, None]:
        """Yield all rows; those of a batch are tokenized while the next ones are read."""
        waiting = deque[list[_Read]]()

        def rendered() -> Iterator[list[RenderedExample]]:
            for few in batched_by_size(rows, _characters):
                if read := self._read(few):
                    waiting.append(read)
                    yield [row.rendered for row in read]

        for tokens in encoded_ahead(rendered(), self._encoder):
            yield self._batch(waiting.popleft(), tokens)
        if self._errors.count:
            yield RowBatch(self._taken_errors())

    def batch(self, rows: Iterable[SourceExample]) -> RowBatch:
        """Return a few rows at once."""
        read = self._read(rows)
        if not read:
            return RowBatch(self._taken_errors())
        return self._batch(read, self._encoder.encode([row.rendered for row in read]))

    def _read(self, rows: Iterable[SourceExample]) -> list[_Read]:
        """Return the rows that can be rendered."""
        read = []
        for row in rows:
            try:
                example = _good(row)
                rendered, in_words = self._renderer.row(example)
            except DatasetError as error:
                self._errors.add(row.number, str(error))
                continue
            read.append(_Read(row.number, example, example.digest, rendered, in_words))
        return read

    def _batch(self, rows: list[_Read], tokens: TokenBatch) -> RowBatch:
        is_good = np.ones(len(rows), np.bool_)
        is_long = (tokens.lengths > self._max_seq_length) & ~tokens.is_text
        extra_windows = 0
        for place in np.flatnonzero(is_long).tolist() if self._cut_rows != "truncate" else ():
            try:
                extra_windows += self._require_windows(rows[place].example, int(tokens.lengths[place])) - 1
            except DatasetError as error:
                self._errors.add(rows[place].number, str(error))
                is_good[place] = False
        if not is_good.all():
            rows = [row for row, is_one in zip(rows, is_good, strict=True) if is_one]
            tokens = tokens.only(is_good)
        batch = RowBatch(self._taken_errors(), extra_windows=extra_windows)
        if rows:
            batch.tokens = tokens
        for row in rows:
            self._add(batch, row)
        return batch

    def _require_windows(self, example: Example, tokens: int) -> int:
        """Return how many windows a conversation that is too long is split into, or raise DatasetError."""
        if self._splitter is not None:
            return len(self._splitter.windows(example))
        raise DatasetError(
            f"has {tokens} tokens, more than max_seq_length={self._max_seq_length}, and cut_rows is error"
        )

    def _add(self, batch: RowBatch, row: _Read) -> None:
        number, example, digest, rendered, in_words = row
        content = example.as_json().encode()
        batch.numbers.append(number)
        batch.contents.append(content)
        batch.digests.append(digest)
        # A plain row's line is what is stored.
        batch.bytes += len(content) + 1 if example.is_plain else len(chat_line(example))
        batch.empty_answers += _has_empty_answer(example)
        batch.rows_losing_text += self._renderer.strict.loses_text(example, rendered)
        batch.rows_with_special_tokens += rendered.spells_special_tokens
        batch.rows_told_in_words += in_words
        batch.weighted_rows += not example.is_plain and example.is_weighted

    def _taken_errors(self) -> RowErrors:
        taken, self._errors = self._errors, RowErrors()
        return taken


def _good(row: SourceExample) -> Example:
    if row.example is None:
        raise DatasetError(row.error or "the row cannot be read")
    return row.example


def _has_empty_answer(example: Example) -> bool:
    if example.text is not None:
        return not example.text.strip()
    for message in example.messages:
        content = message.content
        if (not content or content.isspace()) and message.is_target and not message.tool_calls:
            return True
    return False


def _characters(row: SourceExample) -> int:
    return 0 if row.example is None else characters_of(row.example)
