"""Plain text: what stands between blank lines is one row."""

from collections.abc import Iterator
from pathlib import Path

from tasks.data.examples import DatasetError
from tasks.data.reading.records import (
    MAX_RECORD_BYTES,
    TOO_LONG,
    SourceRow,
    decode_line,
    numbered_lines,
    open_at_content,
)


def read_paragraphs(path: Path) -> Iterator[SourceRow]:
    r"""Yield {"text": paragraph} with the number of its first line; its lines end with \n, the last with nothing.

    Raises DatasetError with the line for what is not UTF-8 or has a NUL: such a file is no text.
    """
    with open_at_content(path) as file:
        paragraph = _Paragraph(1)
        for number, line in numbered_lines(file):
            if line is not None and line.isspace():
                yield from paragraph.rows()
                paragraph = _Paragraph(number + 1)
            else:
                paragraph.add(number, line)
        yield from paragraph.rows()


class _Paragraph:
    """The lines since the last blank one; nothing of them once they are too long."""

    def __init__(self, first_line: int) -> None:
        self._first_line = first_line
        self._lines: list[str] = []
        self._size = 0

    def add(self, number: int, line: bytes | None) -> None:
        """Add the line; None is one that is too long by itself."""
        if line is not None:
            text = _text(number, line)
            self._lines.append(text)
        self._size += MAX_RECORD_BYTES + 1 if line is None else len(line)
        if self._size > MAX_RECORD_BYTES:
            self._lines.clear()

    def rows(self) -> Iterator[SourceRow]:
        """Yield the row, or none if there was no line."""
        if self._size > MAX_RECORD_BYTES:
            yield SourceRow(self._first_line, None, f"the paragraph {TOO_LONG}")
        elif self._lines:
            yield SourceRow(self._first_line, {"text": "\n".join(self._lines)})


def _text(number: int, line: bytes) -> str:
    if b"\0" in line:
        raise DatasetError(f"line {number} holds a NUL byte, so this is no text")
    try:
        text = decode_line(line)
    except DatasetError as error:
        raise DatasetError(f"line {number}: {error}") from None
    return text.removesuffix("\n").removesuffix("\r")
