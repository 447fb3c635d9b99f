"""Plain text: a row is a paragraph, a line, or a piece of one long document, as the text is laid out."""

import re
from collections.abc import Iterator
from os import SEEK_CUR
from pathlib import Path
from typing import IO, Literal

from tasks.data.examples import DatasetError
from tasks.data.reading.records import (
    MAX_RECORD_BYTES,
    TOO_LONG,
    SourceRow,
    decode_line,
    numbered_lines,
    open_at_content,
)
from tasks.data.segments import CONTEXT

Layout = Literal["a paragraph each", "a line each", "one document"]

DOCUMENT_ROW_BYTES = 2**10
"""A piece of one document has at least so many bytes, as far as its lines allow it, and in a large one more."""
LARGEST_PIECE_BYTES = 2**18
PIECES = 100
"""Pieces that a document has at least, if they are not the smallest: a row is held out, or not, as a whole."""

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

    What is longer than a row may be is cut into pieces, which together are the text, at the ends of lines if it has
    any: each has in `text_before` and `text_after` what stands beside it. Raises DatasetError with the line for
    what is not UTF-8 or has a NUL: such a file is no text.
    """
    layout = layout_of(path)
    is_document = layout == "one document"
    smallest = min(max(DOCUMENT_ROW_BYTES, path.stat().st_size // PIECES), LARGEST_PIECE_BYTES)
    rows = _Rows(smallest, 2 * smallest) if is_document else _Rows(MAX_RECORD_BYTES, MAX_RECORD_BYTES)
    with open_at_content(path) as file:
        for number, line in _parts_of_lines(file, smallest) if is_document else numbered_lines(file):
            is_blank = line is not None and line.isspace()
            if layout == "a line each" or (layout == "a paragraph each" and is_blank):
                yield from rows.end()
            if not is_blank or (is_document and rows.has_begun):
                yield from rows.add(number, line)
        yield from rows.end()


def _parts_of_lines(file: IO[bytes], longest: int) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, line with its end); a line longer than so many bytes in parts, cut before spaces if any."""
    number = 1
    while part := file.readline(longest):
        if len(part) == longest and not part.endswith(b"\n"):
            cut = part.rfind(b" ")
            if cut <= 0:
                cut = len(part)
                while cut > len(part) - 4 and part[cut - 1] & 0xC0 == 0x80:  # within a character, or at its end
                    cut -= 1
                cut -= part[cut - 1] >= 0xC0
            file.seek(cut - len(part), SEEK_CUR)
            part = part[:cut]
        yield number, part
        number += part.endswith(b"\n")


class _Rows:
    """Puts lines together to rows: a document each, in linked pieces if it is longer than a row.

    From `longest` bytes on a piece is cut where no tokenizer cares, and at `most` bytes wherever it is.
    """

    def __init__(self, longest: int, most: int) -> None:
        self._longest = longest
        self._most = most
        self._first_line = 0
        self._lines: list[str] = []
        self._size = 0
        self._waiting: tuple[int, str] | None = None
        """A piece whose next one is not known yet, with the number of its first line."""
        self._before = ""
        """The end of the piece before that."""

    @property
    def has_begun(self) -> bool:
        """Whether there was a line."""
        return self._first_line > 0

    def add(self, number: int, line: bytes | None) -> Iterator[SourceRow]:
        """Add the line, and yield a row if one is known by that; None is a line that is too long by itself."""
        if line is None:
            yield from self.end()
            yield SourceRow(number, None, f"the line {TOO_LONG}")
            return
        text = _text(number, line)
        if self._lines and self._size + len(line) > self._longest:
            # A tokenizer may put spaces, or a slash, together with the end of the line before.
            is_safe = not (text[0].isspace() or text[0] == "/" or self._lines[-1].isspace())
            if is_safe or self._size + len(line) > self._most:
                indent = 0 if is_safe else max(len(text) - len(text.lstrip()) - 1, 0)
                self._lines.append(text[:indent])
                text = text[indent:]
                yield from self._cut()
        if not self._lines:
            self._first_line = number
        self._lines.append(text)
        self._size += len(line)

    def end(self) -> Iterator[SourceRow]:
        """Yield what is left of the document, without the blank lines at its end."""
        while self._lines and not self._lines[-1].strip():
            self._lines.pop()
        last = "".join(self._lines).removesuffix("\n")
        if last:
            yield from self._wait_for(last)
        elif self._waiting is not None:
            self._waiting = (self._waiting[0], self._waiting[1].rstrip("\n"))
        yield from self._wait_for("")
        self._before = ""

    def _cut(self) -> Iterator[SourceRow]:
        yield from self._wait_for("".join(self._lines))

    def _wait_for(self, piece: str) -> Iterator[SourceRow]:
        """Yield the piece that waits for this one, which then waits for its next."""
        if self._waiting is not None:
            number, text = self._waiting
            around = {"text_before": self._before, "text_after": piece[:CONTEXT]}
            yield SourceRow(number, {"text": text} | {name: part for name, part in around.items() if part})
            self._before = text[-CONTEXT:]
        self._waiting = (self._first_line, piece) if piece else None
        self._lines, self._size = [], 0


def _text(number: int, line: bytes) -> str:
    r"""Return the line, ended by \n if it is ended."""
    if b"\0" in line:
        raise DatasetError(f"line {number} holds a NUL byte, so this is no text")
    try:
        text = decode_line(line)
    except DatasetError as error:
        raise DatasetError(f"line {number}: {error}") from None
    return f"{text[:-2]}\n" if text.endswith("\r\n") else text
