"""JSON as it comes: where a value ends, and which values are calls."""

import json
from collections.abc import Collection
from typing import Any

_ARGUMENTS = ("arguments", "parameters")
"""Where a call has its arguments: in most formats, and in Llama 3's."""


class JsonScan:
    """Finds the end of a JSON object or list in a text that comes in pieces."""

    def __init__(self, depth: int = 0) -> None:
        """`depth`: how many are open already."""
        self._depth = depth
        self._in_string = self._escaped = False

    def end(self, piece: str) -> int | None:
        """Return where in this piece the value has ended; None if it goes on."""
        for place, character in enumerate(piece):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return place + 1
        return None


def call_in(value: Any, names: Collection[str] | None = None) -> tuple[str, str] | None:
    """Return the name and the arguments (JSON text) of a value that is a call, else None.

    With `names`, one of these is called, and the arguments are there.
    """
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    if names is not None and (value["name"] not in names or not any(field in value for field in _ARGUMENTS)):
        return None
    written: Any = next((value[field] for field in _ARGUMENTS if field in value), {})
    if isinstance(written, str):
        written = parsed(written or "{}")
    if not isinstance(written, dict):
        return None
    return value["name"], json.dumps(written, ensure_ascii=False)


def parsed(text: str) -> Any:
    """Return the value of a JSON text; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
