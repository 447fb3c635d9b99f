"""Plain text: a row is a paragraph, a line, or a piece of one long document, as the text is laid out."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tasks.data.examples import DatasetError
from tasks.data.reading.records import (
    MAX_RECORD_BYTES,
    TOO_LONG,
    SourceRow,
    decode_line,
    numbered_lines,
    open_at_content,
)

Layout = Literal["a paragraph each", "a line each", "one document"]

DOCUMENT_ROW_BYTES = 2**10
"""The most of one document that is a row, if its lines allow it: within 512 tokens even where each is but two bytes."""

_SAMPLE_BYTES = 2**16
_BLANK_LINE = re.compile(rb"\n[ \t\r\f\v]*\n")
_SENTENCE_END = re.compile("[.!?…。｡؟।\uff01\uff1f][\"'”\u2019»)\\]」』*_]*\\s*\\Z")
# Nobody wraps a document's lines so wide.
_WIDEST_WRAP = 120


def layout_of(path: Path) -> Layout:
    """Return what a row of the text is, from its first 64 KiB.

    Blank lines part paragraphs. Without any, a line is a document where at least half of the lines end as a sentence
    does or are longer than a wrapped line, and are not indented; the lines of verse or of a program belong together.
    """
    with open_at_content(path) as file:
        sample = file.read(_SAMPLE_BYTES)
    if _BLANK_LINE.search(sample.strip()):
        return "a paragraph each"
    # Not splitlines: it takes U+2028 and others for line ends.
    lines = [line for line in sample.decode("utf-8", "replace").split("\n") if line.strip()]
    # The last one may be cut, or ends the sentence that was wrapped.
    whole = lines[:-1]
    documents = sum(not line[0].isspace() and _is_document(line) for line in whole)
    return "a line each" if 2 * documents >= len(whole) > 0 else "one document"


def _is_document(line: str) -> bool:
    return len(line) > _WIDEST_WRAP or _SENTENCE_END.search(line) is not None


def read_plain_text(path: Path) -> Iterator[SourceRow]:
    r"""Yield {"text": row} with the number of its first line; its lines end with \n, the last with nothing.

    What is longer than a row may be is cut at the end of a line, which the row then keeps. Raises DatasetError with the
    line for what is not UTF-8 or has a NUL: such a file is no text.
    """
    layout = layout_of(path)
    rows = _Rows(DOCUMENT_ROW_BYTES if layout == "one document" else MAX_RECORD_BYTES)
    with open_at_content(path) as file:
        for number, line in numbered_lines(file):
            is_blank = line is not None and line.isspace()
            if layout == "a line each" or (layout == "a paragraph each" and is_blank):
                yield from rows.end()
            if not is_blank or (layout == "one document" and rows.has_begun):
                yield from rows.add(number, line)
        yield from rows.end()


class _Rows:
    """Puts lines together to rows, none longer than `longest` bytes unless it is a line by itself."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._first_line = 0
        self._lines: list[str] = []
        self._size = 0

    @property
    def has_begun(self) -> bool:
        """Whether there was a line."""
        return self._first_line > 0

    def add(self, number: int, line: bytes | None) -> Iterator[SourceRow]:
        """Add the line, and yield the row before it if that may not grow; None is a line that is too long by itself."""
        if line is None:
            yield from self.end()
            yield SourceRow(number, None, f"the line {TOO_LONG}")
            return
        if self._lines and self._size + len(line) > self._longest:
            yield self._row("\n")
        if not self._lines:
            self._first_line = number
        self._lines.append(_text(number, line))
        self._size += len(line)

    def end(self) -> Iterator[SourceRow]:
        """Yield the row without the blank lines at its end, or none if there is no other line."""
        while self._lines and not self._lines[-1].strip():
            self._lines.pop()
        if self._lines:
            yield self._row("")

    def _row(self, end: str) -> SourceRow:
        row = SourceRow(self._first_line, {"text": "\n".join(self._lines) + end})
        self._lines, self._size = [], 0
        return row


def _text(number: int, line: bytes) -> str:
    if b"\0" in line:
        raise DatasetError(f"line {number} holds a NUL byte, so this is no text")
    try:
        text = decode_line(line)
    except DatasetError as error:
        raise DatasetError(f"line {number}: {error}") from None
    return text.removesuffix("\n").removesuffix("\r")
