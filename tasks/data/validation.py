"""Validates a data set in one pass: usable rows, errors, token counts and warnings."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from configs.recipe import CutRows
from tasks.data.chat_lines import chat_line
from tasks.data.chat_windows import Splitter
from tasks.data.examples import DatasetError, Example
from tasks.data.report import percentile
from tasks.data.segments import RenderedExample
from tasks.data.source import ExampleSource, SourceExample
from tasks.data.split import count_duplicates
from tasks.data.template import Renderer
from tasks.data.tokenizing import TokenBatch, batched_by_size, characters_of, encoded_ahead
from tasks.data.validation_report import RowError, ValidationReport, warnings_of

ERRORS_SHOWN = 20


class RowSink(Protocol):
    """Takes the good rows, as `StoreWriter` does."""

    def add(self, number: int, example: Example, digest: bytes) -> None:
        """Append a row."""
        ...


class TokenSink(Protocol):
    """Takes the good rows' tokens, as `TokenCacheWriter` does."""

    def write(self, batch: TokenBatch) -> None:
        """Append uncut rows."""
        ...


def validate(
    source: ExampleSource,
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    writer: RowSink,
    *,
    tokens: TokenSink | None = None,
    allow_errors: bool = False,
    cut_rows: CutRows = "truncate",
) -> ValidationReport:
    """Read every row once, give the good ones to `writer` (and their token ids to `tokens`), and report.

    Rows in error are counted and not written. One of them makes the data set unusable, unless `allow_errors` says that
    they may be left out. `cut_rows` says whether a conversation longer than `max_seq_length` is one. Memory grows by
    12 bytes a row. Raises DatasetError for what makes the whole file unreadable.
    """
    return _Validation(source, tokenizer, max_seq_length, writer, tokens, cut_rows).run(allow_errors)


class _Read(NamedTuple):
    """A row that can be rendered."""

    number: int
    example: Example
    digest: bytes
    rendered: RenderedExample


class _Validation:
    def __init__(
        self,
        source: ExampleSource,
        tokenizer: PreTrainedTokenizerBase,
        max_seq_length: int,
        writer: RowSink,
        tokens: TokenSink | None,
        cut_rows: CutRows,
    ) -> None:
        self._source = source
        self._renderer = Renderer(tokenizer)
        self._tokenizer = tokenizer
        self._max_seq_length = max_seq_length
        self._writer = writer
        self._tokens = tokens
        self._long_rows = cut_rows
        self._splitter = Splitter(tokenizer, max_seq_length) if cut_rows == "split" else None
        self._documents = _Documents(max_seq_length)
        self._error_count = 0
        self._errors: list[RowError] = []
        self._lengths: list[NDArray[np.int32]] = []
        self._prefixes: list[NDArray[np.uint64]] = []
        self._bytes = self._answer_tokens = self._cut_rows = self._lost_rows = self._windows = 0
        self._longest_row = (0, 0)
        self._empty_answers = self._rows_losing_text = self._rows_with_special_tokens = self._weighted_rows = 0

    def run(self, allow_errors: bool) -> ValidationReport:
        waiting = deque[list[_Read]]()

        def rendered() -> Iterator[list[RenderedExample]]:
            for rows in self._read():
                waiting.append(rows)
                yield [row.rendered for row in rows]

        for batch in encoded_ahead(rendered(), self._tokenizer):
            self._take(waiting.popleft(), batch)
        return self._report(allow_errors)

    def _read(self) -> Iterator[list[_Read]]:
        """Yield the rows that can be rendered in batches."""
        for rows in batched_by_size(self._source, _characters):
            read = []
            for row in rows:
                try:
                    example = self._good(row)
                    rendered = self._renderer.render(example)
                except DatasetError as error:
                    self._fail(row.number, str(error))
                    continue
                read.append(_Read(row.number, example, bytes.fromhex(example.content_hash), rendered))
            if read:
                yield read

    def _take(self, rows: list[_Read], batch: TokenBatch) -> None:
        """Write the rows that are good, and count them."""
        is_good = np.ones(len(rows), np.bool_)
        is_long = (batch.lengths > self._max_seq_length) & ~batch.is_text
        extra_windows = 0
        for place in np.flatnonzero(is_long).tolist() if self._long_rows != "truncate" else ():
            try:
                extra_windows += self._require_windows(rows[place].example, int(batch.lengths[place])) - 1
            except DatasetError as error:
                self._fail(rows[place].number, str(error))
                is_good[place] = False
        good = [row for row, is_one in zip(rows, is_good, strict=True) if is_one]
        if not good:
            return
        for row in good:
            self._look_at(row.example, row.rendered)
            self._writer.add(row.number, row.example, row.digest)
        self._prefixes.append(np.frombuffer(b"".join(row.digest[:8] for row in good), np.uint64))
        kept = batch if len(good) == len(rows) else batch.only(is_good)
        longest = int(kept.lengths.argmax())
        self._longest_row = max(self._longest_row, (int(kept.lengths[longest]), -good[longest].number))
        self._windows += extra_windows
        self._count(kept)

    def _require_windows(self, example: Example, tokens: int) -> int:
        """Return how many windows a conversation that is too long is split into, or raise DatasetError."""
        if self._splitter is not None:
            return len(self._splitter.windows(example))
        raise DatasetError(
            f"has {tokens} tokens, more than max_seq_length={self._max_seq_length}, and cut_rows is error"
        )

    def _good(self, row: SourceExample) -> Example:
        if row.example is None:
            raise DatasetError(row.error or "the row cannot be read")
        return row.example

    def _look_at(self, example: Example, rendered: RenderedExample) -> None:
        self._bytes += len(chat_line(example))
        self._empty_answers += _has_empty_answer(example)
        self._rows_losing_text += self._renderer.loses_text(example, rendered)
        self._rows_with_special_tokens += rendered.spells_special_tokens
        self._weighted_rows += example.is_weighted

    def _count(self, batch: TokenBatch) -> None:
        self._lengths.append(batch.lengths)
        self._answer_tokens += int(batch.answer_tokens().sum())
        is_text = batch.is_text
        is_long = ~is_text & (batch.lengths > self._max_seq_length)
        is_split = is_long if self._splitter is not None else np.zeros_like(is_long)
        lost = (batch.answer_tokens(self._max_seq_length) == 0) & ~is_split
        self._lost_rows += int(lost.sum())
        self._cut_rows += int((~lost & ~is_split & is_long).sum())
        self._windows += int((~is_text & ~lost).sum())
        self._documents.count(batch.lengths[is_text], batch.all_links[is_text])
        if self._tokens is not None:
            self._tokens.write(batch)

    def _fail(self, number: int, message: str) -> None:
        self._error_count += 1
        self._errors.append(RowError(number, message))
        # Not always in the order of the rows: some are only known to be in error once they have been tokenized.
        if len(self._errors) >= 2 * ERRORS_SHOWN:
            self._errors = self._first_errors()

    def _first_errors(self) -> list[RowError]:
        return sorted(self._errors, key=lambda error: error.number)[:ERRORS_SHOWN]

    def _report(self, allow_errors: bool) -> ValidationReport:
        lengths = np.sort(np.concatenate(self._lengths)) if self._lengths else np.zeros(1, np.int32)
        good = sum(map(len, self._lengths))
        document_max, text_windows = self._documents.totals()
        report = ValidationReport(
            file_format=self._source.file_format,
            shape=self._source.shape,
            ignored_columns=list(self._source.ignored_columns),
            usable=good > self._lost_rows and (allow_errors or self._error_count == 0),
            rows=good + self._error_count,
            usable_rows=good - self._lost_rows,
            error_count=self._error_count,
            errors=self._first_errors(),
            max_seq_length=self._max_seq_length,
            bytes=self._bytes,
            tokens=int(lengths.sum(dtype=np.int64)),
            answer_tokens=self._answer_tokens,
            length_p50=percentile(lengths, 0.50),
            length_p95=percentile(lengths, 0.95),
            length_p99=percentile(lengths, 0.99),
            length_max=int(lengths[-1]),
            longest_row=-self._longest_row[1] or None,
            document_max=document_max,
            windows=self._windows + text_windows,
            cut_rows=self._cut_rows,
            lost_rows=self._lost_rows,
            duplicate_rows=count_duplicates(np.concatenate(self._prefixes)) if self._prefixes else 0,
            empty_answers=self._empty_answers,
            rows_losing_text=self._rows_losing_text,
            rows_with_special_tokens=self._rows_with_special_tokens,
            weighted_rows=self._weighted_rows,
        )
        report.warnings.extend(warnings_of(report))
        return report


class _Documents:
    """Counts texts, each with all of its pieces."""

    def __init__(self, max_seq_length: int) -> None:
        self._max_seq_length = max_seq_length
        self._link = self._begun = 0
        self._longest = self._windows = 0

    def count(self, lengths: NDArray[np.int32], links: NDArray[np.int32]) -> None:
        """Count rows of plain text, which follow those before."""
        if len(lengths) == 0:
            return
        befores, afters = links[:, 0], np.concatenate([[self._link], links[:-1, 1]])
        begins = np.flatnonzero((afters == 0) | (afters != befores))
        totals = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]) + self._begun
        ended = np.diff(totals[begins], prepend=0)
        self._link, self._begun = int(links[-1, 1]), int(totals[-1] - ended.sum())
        self._add(ended)

    def _add(self, documents: NDArray[np.int64]) -> None:
        self._longest = max(self._longest, int(documents.max(initial=0)))
        self._windows += int(-(-documents[documents > 1] // self._max_seq_length).sum())

    def totals(self) -> tuple[int, int]:
        """Return the tokens of the longest document, and the windows of all."""
        self._add(np.array([self._begun], np.int64))
        self._begun = 0
        return self._longest, self._windows


def _has_empty_answer(example: Example) -> bool:
    if example.text is not None:
        return not example.text.strip()
    return any(
        message.is_target and not message.tool_calls and not message.text.strip() for message in example.messages
    )


def _characters(row: SourceExample) -> int:
    return 0 if row.example is None else characters_of(row.example)
