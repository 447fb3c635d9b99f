"""Validates a data set in one pass: usable rows, errors, token counts and warnings."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tasks.data.chat_lines import chat_line
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
) -> ValidationReport:
    """Read every row once, give the good ones to `writer` (and their token ids to `tokens`), and report.

    Rows in error are counted and not written. One of them makes the data set unusable, unless `allow_errors` says that
    they may be left out. Memory grows by 12 bytes a row. Raises DatasetError for what makes the
    whole file unreadable.
    """
    return _Validation(source, tokenizer, max_seq_length, writer, tokens).run(allow_errors)


class _Validation:
    def __init__(
        self,
        source: ExampleSource,
        tokenizer: PreTrainedTokenizerBase,
        max_seq_length: int,
        writer: RowSink,
        tokens: TokenSink | None,
    ) -> None:
        self._source = source
        self._renderer = Renderer(tokenizer)
        self._tokenizer = tokenizer
        self._max_seq_length = max_seq_length
        self._writer = writer
        self._tokens = tokens
        self._error_count = 0
        self._errors: list[RowError] = []
        self._lengths: list[NDArray[np.int32]] = []
        self._prefixes: list[NDArray[np.uint64]] = []
        self._bytes = self._answer_tokens = self._cut_rows = self._lost_rows = 0
        self._empty_answers = self._rows_losing_text = self._rows_with_special_tokens = self._weighted_rows = 0

    def run(self, allow_errors: bool) -> ValidationReport:
        for batch in encoded_ahead(self._rendered(), self._tokenizer):
            self._count(batch)
        return self._report(allow_errors)

    def _rendered(self) -> Iterator[list[RenderedExample]]:
        """Yield the good rows in batches, once they are written."""
        for rows in batched_by_size(self._source, _characters):
            rendered: list[RenderedExample] = []
            digests: list[bytes] = []
            for row in rows:
                try:
                    example = self._good(row)
                    rendered.append(self._renderer.render(example))
                except DatasetError as error:
                    self._fail(row.number, str(error))
                    continue
                digests.append(bytes.fromhex(example.content_hash))
                self._look_at(example, rendered[-1])
                self._writer.add(row.number, example, digests[-1])
            if rendered:
                self._prefixes.append(np.frombuffer(b"".join(digest[:8] for digest in digests), np.uint64))
                yield rendered

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
        lost = batch.answer_tokens(self._max_seq_length) == 0
        self._lost_rows += int(lost.sum())
        self._cut_rows += int((~lost & (batch.lengths > self._max_seq_length)).sum())
        if self._tokens is not None:
            self._tokens.write(batch)

    def _fail(self, number: int, message: str) -> None:
        self._error_count += 1
        if len(self._errors) < ERRORS_SHOWN:
            self._errors.append(RowError(number, message))

    def _report(self, allow_errors: bool) -> ValidationReport:
        lengths = np.sort(np.concatenate(self._lengths)) if self._lengths else np.zeros(1, np.int32)
        good = sum(map(len, self._lengths))
        report = ValidationReport(
            file_format=self._source.file_format,
            shape=self._source.shape,
            ignored_columns=list(self._source.ignored_columns),
            usable=good > self._lost_rows and (allow_errors or self._error_count == 0),
            rows=good + self._error_count,
            usable_rows=good - self._lost_rows,
            error_count=self._error_count,
            errors=self._errors,
            max_seq_length=self._max_seq_length,
            bytes=self._bytes,
            tokens=int(lengths.sum(dtype=np.int64)),
            answer_tokens=self._answer_tokens,
            length_p50=percentile(lengths, 0.50),
            length_p95=percentile(lengths, 0.95),
            length_p99=percentile(lengths, 0.99),
            length_max=int(lengths[-1]),
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


def _has_empty_answer(example: Example) -> bool:
    if example.text is not None:
        return not example.text.strip()
    return any(
        message.is_target and not message.tool_calls and not message.text.strip() for message in example.messages
    )


def _characters(row: SourceExample) -> int:
    return 0 if row.example is None else characters_of(row.example)
