"""A JSON file that is one list of rows, or one object with a list of rows in it; read row by row.

Written here because the streaming library at hand (ijson 3.6) keeps the whole of a string however long it is, and the
path of every level: 100,000 brackets, as many bytes, made it take more than 3 GB.
"""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tasks.data.examples import DatasetError
from tasks.data.reading.records import (
    COMMENT_STARTS,
    MAX_RECORD_BYTES,
    TOO_DEEP,
    TOO_LONG,
    RepeatedKeyError,
    SourceRow,
    described,
    json_problem,
    not_utf8,
    open_at_content,
    require_distinct_keys,
    require_object,
    require_shallow,
    shortened,
)

LISTS_IN_A_ROW = frozenset({"messages", "conversations", "prompt", "completion", "response", "tools", "history"})
"""Lists by these names belong to one row; a list by another name, such as `data`, holds the rows."""

_ACCEPTED = 'send a list of objects, or an object such as {"data": [...]}'
_READ_BYTES = 2**20
_BLANK = re.compile(r"[ \t\n\r]*")
_SCANNER = json.JSONDecoder()
# An error so near the end of what was read may only mean that a word such as -Infinity is not yet whole.
_LONGEST_WORD = 16


def read_json_document(path: Path) -> Iterator[SourceRow]:
    """Yield the rows, numbered from 1. Raises DatasetError for what is no list of rows, and for broken JSON."""
    with open_at_content(path) as file:
        text = _JsonText(file)
        if text.peek() == "[":
            text.skip()
            yield from _rows(text)
        elif text.peek() == "{":
            yield from _rows_within_object(text)
        else:
            raise DatasetError(f"the file is {described(text.value('the file'))}; {_ACCEPTED}")
        if text.peek():
            raise DatasetError(f"more follows after the end of the JSON, {text.place()}; a JSON file is one value")


def holds_rows(name: str, value: Any) -> bool:
    """Whether this member of an object at the top of a file is the list of its rows."""
    return name not in LISTS_IN_A_ROW and isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _rows(text: "_JsonText") -> Iterator[SourceRow]:
    for number, name in enumerate(_elements(text), 1):
        try:
            value = text.value(name)
        except RepeatedKeyError as error:
            yield SourceRow(number, None, str(error))
            continue
        try:
            yield SourceRow(number, require_object(value))
        except DatasetError as error:
            yield SourceRow(number, None, f"the row {error}")


def _rows_within_object(text: "_JsonText") -> Iterator[SourceRow]:
    text.expect("{")
    found: str | None = None
    separator = "}" if text.peek() == "}" else ","
    while separator == ",":
        name = text.value("a name")
        text.expect(":")
        if text.peek() == "[" and name not in LISTS_IN_A_ROW:
            text.skip()
            if text.peek() != "{":
                for element in _elements(text):
                    text.value(element)
            elif found is not None:
                raise DatasetError(f"holds two lists of rows, {found!r} and {shortened(name)}; send one list")
            else:
                found = name
                yield from _rows(text)
        else:
            text.value(f"the value of {shortened(name)}")
        separator = text.expect(",}")
    if found is None:
        if text.peek() in {",", "{"}:
            raise DatasetError(
                f"another JSON object follows the first, {text.place()}; write each on one line, without commas "
                "between them (JSON lines), or all of them in one list"
            )
        raise DatasetError(f"is one JSON object without a list of rows; {_ACCEPTED}")


def _elements(text: "_JsonText") -> Iterator[str]:
    """Yield each element's name, for the caller to read it, of the list whose bracket was just read; then close it."""
    if text.peek() == "]":
        text.skip()
        return
    number = 1
    yield "row 1"
    while text.expect(",]") == ",":
        if text.peek() == "]":
            raise DatasetError(f"a comma stands after the last row, before the bracket {text.place()}; remove it")
        number += 1
        yield f"row {number}"


class _JsonText:
    """The rest of a JSON file, of which about one row is in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._bytes_read = file.tell()
        self._first_line = 1
        """The line on which `_text` starts."""
        self._text = ""
        self._at = 0
        self._ended = False

    def peek(self) -> str:
        """Return the next character that is not blank, without reading it; nothing at the end of the file."""
        while True:
            match = _BLANK.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def skip(self) -> None:
        """Read the character that `peek` returned."""
        self._at += 1

    def expect(self, accepted: str) -> str:
        """Read and return the next character. Raises DatasetError if it is none of `accepted`."""
        found = self.peek()
        if not found or found not in accepted:
            raise DatasetError(f"the JSON is broken {self.place()}: {' or '.join(map(repr, accepted))} must follow")
        self.skip()
        return found

    def place(self) -> str:
        """Return where the reading is, for a sentence."""
        rest = self._text[self._at : self._at + 20]
        if not rest:
            return "at the end of the file"
        before = self._bytes_read - len(self._decoder.getstate()[0]) - len(self._text[self._at :].encode())
        comment = ", a comment, which JSON does not have" if rest.startswith(COMMENT_STARTS) else ""
        return f"at byte {before + 1}, on line {self._line(self._at)} ({rest!r}{comment})"

    def value(self, name: str) -> Any:
        """Read one JSON value, `name` in an error's sentence. Raises DatasetError if it is broken, too long or deep."""
        self.peek()
        while True:
            try:
                value, end = _SCANNER.raw_decode(self._text, self._at)
            except RecursionError:
                raise DatasetError(f"{name} {TOO_DEEP}") from None
            except json.JSONDecodeError as error:
                self._require_unfinished(name, error)
            except ValueError:
                raise DatasetError(f"{name} holds a number of more than 4,300 digits") from None
            else:
                # A number at the very end of what was read may go on.
                if end < len(self._text) or self._ended:
                    return self._accept(name, value, end)
            if len(self._text) - self._at > MAX_RECORD_BYTES:
                raise DatasetError(f"{name}, {self.place()}, {TOO_LONG}; is a quote or a bracket not closed?")
            self._read_on()

    def _accept(self, name: str, value: Any, end: int) -> Any:
        if end - self._at > MAX_RECORD_BYTES:
            raise DatasetError(f"{name}, {self.place()}, {TOO_LONG}")
        try:
            require_shallow(value, self._text.count("[", self._at, end) + self._text.count("{", self._at, end))
        except DatasetError as error:
            raise DatasetError(f"{name} {error}") from None
        start, self._at = self._at, end
        try:
            require_distinct_keys(value, self._text[start:end])
        except RepeatedKeyError as error:
            raise RepeatedKeyError(f"{name} {error}") from None
        return value

    def _require_unfinished(self, name: str, error: json.JSONDecodeError) -> None:
        """Raise DatasetError unless the error may come from the value's not being read to its end yet."""
        near_the_end = error.pos > len(self._text) - _LONGEST_WORD or error.msg.startswith("Unterminated string")
        if self._ended or not near_the_end:
            place = f"on line {self._line(error.pos)}"
            raise DatasetError(f"{name} is not valid JSON {place}: {json_problem(error, self._at)}") from None

    def _line(self, position: int) -> int:
        return self._first_line + self._text.count("\n", 0, position)

    def _read_on(self) -> None:
        self._first_line = self._line(self._at)
        rest = self._text[self._at :]
        # As much again as there is: a long value is then parsed a few times, not once a megabyte.
        data = self._file.read(max(_READ_BYTES, len(rest)))
        pending = len(self._decoder.getstate()[0])
        try:
            self._text = rest + self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            place = f"byte {self._bytes_read - pending + error.start + 1} of the file"
            raise DatasetError(not_utf8(error.object[error.start], place)) from None
        self._at = 0
        self._bytes_read += len(data)
        self._ended = not data
