"""What a data set is as one model's tokenizer sees it, in numbers and in sentences."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

ERRORS_SHOWN = 20
CONVERSATIONS = ("messages", "conversations", "prompt/completion: turns")
"""Shapes of rows that are lists of turns."""


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row can't be used."""

    number: int
    message: str


class RowErrors:
    """How many rows are in error, and the first of them by their numbers."""

    def __init__(self) -> None:
        self.count = 0
        self._kept: list[RowError] = []

    @property
    def first(self) -> list[RowError]:
        """The first errors, as many as are shown."""
        # Not always added in the order of the rows: some are known to be in error once they have been tokenized.
        return sorted(self._kept, key=lambda error: error.number)[:ERRORS_SHOWN]

    def add(self, number: int, message: str) -> None:
        """Count a row in error."""
        self._keep([RowError(number, message)], 1)

    def include(self, others: "RowErrors") -> None:
        """Count the rows of others too."""
        self._keep(others.first, others.count)

    def _keep(self, errors: list[RowError], count: int) -> None:
        self.count += count
        self._kept += errors
        if len(self._kept) >= 2 * ERRORS_SHOWN:
            self._kept = self.first


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """What a data set is, as one model's tokenizer sees it. `rows` = `usable_rows` + `error_count` + `lost_rows`."""

    file_format: str
    shape: str
    ignored_columns: list[str]
    usable: bool
    """Whether it may be used: it has usable rows, and no row in error unless those were allowed."""
    rows: int
    usable_rows: int
    """Rows that keep an answer token within `max_seq_length`."""
    error_count: int
    errors: list[RowError]
    """The first of them."""
    max_seq_length: int
    bytes: int
    """Of all rows without an error, as the JSON lines that `tasks.data.chat_lines` makes of them."""
    tokens: int
    """Of all rows without an error, before any cut."""
    answer_tokens: int
    """Those of them that carry a loss."""
    length_p50: int
    """Percentiles of the tokens of a row before any cut, exact; 0 where there is no row."""
    length_p95: int
    length_p99: int
    length_max: int
    longest_row: int | None
    """The number of the first row that has so many."""
    document_max: int
    """Tokens of the longest plain text with all of its pieces; 0 where there is no text."""
    windows: int
    """What an epoch over all usable rows, with none held out, reads: a row, or each window of one that is longer."""
    cut_rows: int
    """Conversations that keep an answer token, but are longer than `max_seq_length`: training would not see their end.
    None where they are split (`cut_rows` of the settings), or errors."""
    lost_rows: int
    """Rows that keep none, because the cut takes all of their answers or there is none to predict."""
    duplicate_rows: int
    """Rows that repeat an earlier one exactly."""
    empty_answers: int
    """Rows with an answer of nothing but whitespace."""
    rows_losing_text: int
    """Rows of which the model's chat template leaves words out, or changes them."""
    rows_with_special_tokens: int
    """Rows that spell special tokens of the tokenizer; see `ControlTokens` for what becomes of them."""
    weighted_rows: int
    """Rows with a weight that is not 1, of the row or of a learned turn."""
    rows_told_in_words: int = 0
    """Rows whose tools and calls the model's chat template has no place for: they are told in words."""
    warnings: list[str] = field(default_factory=list)
    """Sentences for people."""

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def is_of_conversations(report: dict[str, Any] | None) -> bool:
    """Return whether a data set with this report, as JSON, has turns with roles, and not questions or texts alone."""
    return report is not None and report.get("shape") in CONVERSATIONS


def warnings_of(report: ValidationReport) -> Iterator[str]:
    """Yield what a person should know, a sentence each."""
    longest = f"{report.max_seq_length} tokens"
    if report.usable and report.error_count:
        yield f"{report.error_count} of {report.rows} rows can't be used, and are left out."
    sentences = [
        (report.lost_rows, f"keep nothing to learn within {longest}, and are left out of training"),
        (report.cut_rows, f"are longer than {longest} and would lose their end"),
        (report.duplicate_rows, "repeat an earlier row exactly, so they weigh more"),
        (report.empty_answers, "have an empty answer, which teaches the model to say nothing"),
        (report.rows_losing_text, "lose words in the model's chat template, or have them changed"),
        (
            report.rows_told_in_words,
            "hold tools or calls that the model's chat template has no place for: they are told in words, as requests "
            "with tools are",
        ),
        (
            report.rows_with_special_tokens,
            "spell special tokens of the model: in a conversation those that begin or end turns are trained on as "
            "plain words, all others as the tokens",
        ),
    ]
    for count, sentence in sentences:
        if count:
            yield f"{count} of {report.rows} rows {sentence}."
    if report.ignored_columns:
        yield f"These columns are not used: {', '.join(report.ignored_columns)}."
