"""Shared by the readers of all formats: a raw row with its number, the limits, and how errors describe a value."""

import json
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from tasks.data.examples import DatasetError

MAX_RECORD_BYTES = 16 * 2**20
"""The longest line, paragraph or row; a reader never holds much more than this."""
MAX_JSON_DEPTH = 64
"""Largest nesting depth of lists and objects."""
MAX_COLUMNS = 1_000

TOO_LONG = f"is longer than {MAX_RECORD_BYTES >> 20} MiB, the most that one row may have"
TOO_DEEP = f"nests lists and objects more than {MAX_JSON_DEPTH} deep"
COMMENT_STARTS = ("//", "/*", "#")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SourceRow(NamedTuple):
    """A row of a file: its fields, or why they cannot be read.

    A named tuple because a million of them are made, and it is the quickest to make.
    """

    number: int
    """Line (JSON lines, CSV, text), index from 1 (JSON), or row (Parquet, Arrow)."""
    value: dict[str, Any] | None
    error: str | None = None


class RawLine(NamedTuple):
    """A line of JSON as it is."""

    number: int
    line: bytes | None
    """None for a line that is too long."""


RawRow = SourceRow | RawLine


def open_at_content(path: Path) -> IO[bytes]:
    """Open the file for reading bytes, after its byte order mark if it has one."""
    file = path.open("rb")
    if file.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
        file.seek(0)
    return file


def numbered_lines(file: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    r"""Yield (number from 1, line with its end); None stands for a line that is too long, of which nothing is kept.

    Lines end with \n or \r\n and nothing else: U+2028 and its like are characters of a text.
    """
    number = 0
    while line := file.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if len(line) <= MAX_RECORD_BYTES:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(2**20)
        yield number, None


def decode_line(line: bytes) -> str:
    """Return the line's text. Raises DatasetError with the place of the first byte that is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(not_utf8(error.object[error.start], f"byte {error.start + 1} of the line")) from None


def not_utf8(byte: int, place: str) -> str:
    """Return the sentence about a byte that cannot be in a UTF-8 text."""
    return f"{place} (0x{byte:02x}) is not UTF-8; save the file as UTF-8"


def parse_json(text: str) -> Any:
    """Return the value of one JSON text.

    NaN and Infinity, which Python and pandas write, are read as numbers: a number is refused where a text is needed,
    and does no harm in a field that nobody reads. Raises DatasetError with the place and a few characters from there,
    and for a key that an object has twice.
    """
    try:
        value = _decoded(text)
    except RecursionError:
        raise DatasetError(TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise DatasetError(f"is not valid JSON: {json_problem(error, 0)}") from None
    except ValueError:
        raise DatasetError("holds a number of more than 4,300 digits") from None
    require_shallow(value, text.count("[") + text.count("{"))
    require_distinct_keys(value, text)
    return value


_DECODER = json.JSONDecoder()


def _decoded(text: str) -> Any:
    """Return what the decoder does, sooner where no whitespace is around the value."""
    try:
        value, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError:
        end = -1
    return value if end == len(text) else _DECODER.decode(text)


class RepeatedKeyError(DatasetError):
    """An object has a key twice; the JSON around it can be read on."""


def require_distinct_keys(value: Any, text: str) -> None:
    """Raise RepeatedKeyError if an object in `text`, of which `value` was parsed, has a key twice."""
    # Parsing with a hook takes twice as long. It is needed only where the text has more colons after quotes than the
    # value has keys: one of two equal keys is lost, or a string holds JSON.
    keys = _count_keys(value) if isinstance(value, dict | list) else 0
    if text.count('":') != keys or ('" ' in text and _SPACED_COLON.search(text)):
        _PAIRS_DECODER.decode(text)


def _count_keys(value: Any) -> int:
    count = 0
    level = [value]
    for container in level:  # it grows meanwhile; a recursion takes longer
        within = container
        if type(container) is dict:
            count += len(container)
            within = container.values()
        for item in within:
            if type(item) is dict or type(item) is list:
                level.append(item)
    return count


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RepeatedKeyError(f"has the key {shortened(twice)} twice in one object")
    return keys


_SPACED_COLON = re.compile(r'"[ \t\r\n]+:')
_PAIRS_DECODER = json.JSONDecoder(object_pairs_hook=_distinct)


def json_problem(error: json.JSONDecodeError, start: int) -> str:
    """Return what the parser found, counted from `start`, and the characters there."""
    found = error.doc[error.pos : error.pos + 20]
    if found.startswith(COMMENT_STARTS):
        return f"JSON has no comments, and one starts at character {error.pos - start + 1}: {found!r}"
    problem = error.msg[0].lower() + error.msg[1:].removesuffix(" at")
    return f"{problem} at character {error.pos - start + 1}" + (f": {found!r}" if found else ", where it ends")


def require_shallow(value: Any, brackets: int) -> None:
    """Raise DatasetError if `value` nests too deep; a text with few opening `brackets` cannot, and costs nothing."""
    if brackets <= MAX_JSON_DEPTH:
        return
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise DatasetError(TOO_DEEP)


def require_object(value: Any) -> dict[str, Any]:
    """Return `value` if it is a row. Raises DatasetError if it is any other JSON value."""
    if isinstance(value, dict):
        return value
    raise DatasetError(f'is {described(value)}; a row is an object such as {{"question": "...", "answer": "..."}}')


def is_object(line: bytes) -> bool:
    """Whether these bytes are one JSON object."""
    return isinstance(parsed_or_none(line), dict)


def parsed_or_none(line: bytes) -> Any:
    """Return the JSON value of these bytes, or None if they have none."""
    try:
        return parse_json(line.decode("utf-8"))
    except (DatasetError, UnicodeDecodeError):
        return None


def described(value: Any) -> str:
    """Return what kind of value this is and its beginning, for a sentence: "a number (4)"."""
    if value is None:
        return "null"
    kind = _KINDS.get(type(value), f"of the type {type(value).__name__}")
    return f"{kind} ({shortened(value)})"


_KINDS: dict[type, str] = {
    str: "a text",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def shortened(value: Any) -> str:
    """Return the beginning of a value, at most about 60 characters of each part, quickly however long it is."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlist = _SHORT.maxdict = 3
_SHORT.maxlevel = 2
