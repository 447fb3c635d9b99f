"""Validates a data set in one pass: usable rows, errors, token counts and warnings."""

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from configs.recipe import CutRows
from tasks.data.report import percentile
from tasks.data.row_batches import RowBatch, RowReader
from tasks.data.row_processes import LARGE_BYTES, batches_by_processes
from tasks.data.source import ExampleSource, RawSource
from tasks.data.split import count_duplicates
from tasks.data.tokenizing import TokenBatch
from tasks.data.validation_report import RowErrors, ValidationReport, warnings_of


class RowSink(Protocol):
    """Takes the good rows, as `StoreWriter` does."""

    def add_written(self, number: int, content: bytes, digest: bytes) -> None:
        """Append a row, as JSON, with its hash."""
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
    processes: int = 1,
) -> ValidationReport:
    """Read every row once, give the good ones to `writer` (and their token ids to `tokens`), and report.

    Rows in error are counted and not written. One of them makes the data set unusable, unless `allow_errors` says that
    they may be left out. `cut_rows` says whether a conversation longer than `max_seq_length` is one. Memory grows by
    12 bytes a row. Raises DatasetError for what makes the whole file unreadable.

    With `processes`, the rows of a large file are looked at in so many others, forked from this one: it must have no
    other threads.
    """
    reader = RowReader(tokenizer, max_seq_length, cut_rows)
    batches: Generator[RowBatch, None, None]
    if processes > 1 and isinstance(source, RawSource) and source.is_of_lines and source.size >= LARGE_BYTES:
        batches = batches_by_processes(source, reader, processes)
    else:
        batches = reader.batches(source)
    with closing(batches):  # whatever goes wrong, no process is left
        return _Validation(source, max_seq_length, writer, tokens, cut_rows).run(batches, allow_errors)


class _Validation:
    def __init__(
        self,
        source: ExampleSource,
        max_seq_length: int,
        writer: RowSink,
        tokens: TokenSink | None,
        cut_rows: CutRows,
    ) -> None:
        self._source = source
        self._max_seq_length = max_seq_length
        self._writer = writer
        self._tokens = tokens
        self._are_split = cut_rows == "split"
        self._documents = _Documents(max_seq_length)
        self._errors = RowErrors()
        self._lengths: list[NDArray[np.int32]] = []
        self._prefixes: list[NDArray[np.uint64]] = []
        self._bytes = self._answer_tokens = self._cut_rows = self._lost_rows = self._windows = 0
        self._longest_row = (0, 0)
        self._empty_answers = self._rows_losing_text = self._rows_with_special_tokens = self._weighted_rows = 0
        self._rows_told_in_words = 0

    def run(self, batches: Iterator[RowBatch], allow_errors: bool) -> ValidationReport:
        for batch in batches:
            self._errors.include(batch.errors)
            if batch.tokens is not None:
                self._take(batch, batch.tokens)
        return self._report(allow_errors)

    def _take(self, batch: RowBatch, tokens: TokenBatch) -> None:
        """Write rows, and count them."""
        for number, content, digest in zip(batch.numbers, batch.contents, batch.digests, strict=True):
            self._writer.add_written(number, content, digest)
        self._prefixes.append(np.frombuffer(b"".join([digest[:8] for digest in batch.digests]), np.uint64))
        longest = int(tokens.lengths.argmax())
        self._longest_row = max(self._longest_row, (int(tokens.lengths[longest]), -batch.numbers[longest]))
        self._bytes += batch.bytes
        self._windows += batch.extra_windows
        self._empty_answers += batch.empty_answers
        self._rows_losing_text += batch.rows_losing_text
        self._rows_with_special_tokens += batch.rows_with_special_tokens
        self._weighted_rows += batch.weighted_rows
        self._rows_told_in_words += batch.rows_told_in_words
        self._count(tokens)

    def _count(self, batch: TokenBatch) -> None:
        self._lengths.append(batch.lengths)
        self._answer_tokens += int(batch.answer_tokens().sum())
        is_text = batch.is_text
        is_long = ~is_text & (batch.lengths > self._max_seq_length)
        is_split = is_long if self._are_split else np.zeros_like(is_long)
        lost = (batch.answer_tokens(self._max_seq_length) == 0) & ~is_split
        self._lost_rows += int(lost.sum())
        self._cut_rows += int((~lost & ~is_split & is_long).sum())
        self._windows += int((~is_text & ~lost).sum())
        self._documents.count(batch.lengths[is_text], batch.all_links[is_text])
        if self._tokens is not None:
            self._tokens.write(batch)

    def _report(self, allow_errors: bool) -> ValidationReport:
        lengths = np.sort(np.concatenate(self._lengths)) if self._lengths else np.zeros(1, np.int32)
        good = sum(map(len, self._lengths))
        document_max, text_windows = self._documents.totals()
        report = ValidationReport(
            file_format=self._source.file_format,
            shape=self._source.shape,
            ignored_columns=list(self._source.ignored_columns),
            usable=good > self._lost_rows and (allow_errors or self._errors.count == 0),
            rows=good + self._errors.count,
            usable_rows=good - self._lost_rows,
            error_count=self._errors.count,
            errors=self._errors.first,
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
            rows_told_in_words=self._rows_told_in_words,
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
