"""The base of all readers of answers: written as if the whole text were there, waiting where it is not."""

import re
from collections.abc import Generator
from typing import TypeVar
from uuid import uuid4

from api.generation.parts import CallArguments, CallBegun, Content, Part

T = TypeVar("T")
Steps = Generator[None, None, T]
"""A piece of reading: it is resumed when more text has come."""
MOST_OF_A_HEAD = 512
"""Characters within which a call names its function; what does not is no call."""


class TextReader:
    """Reads a text in any pieces.

    What a reader decides, it decides by the text alone, and waits until that is there: so pieces make no difference.
    """

    def __init__(self) -> None:
        self._text = ""
        self._ended = False
        self._parts: list[Part] = []
        self._reading = self._read()
        self.calls = 0
        """How many have begun."""

    def push(self, text: str) -> list[Part]:
        """Return the parts that are certain now."""
        self._text += text
        return self._resumed()

    def end(self) -> list[Part]:
        """Return what is left once the text has ended."""
        self._ended = True
        return self._resumed()

    def _read(self) -> Steps[None]:
        """Read the whole text."""
        raise NotImplementedError

    def _resumed(self) -> list[Part]:
        next(self._reading, None)
        parts, self._parts = self._parts, []
        return parts

    def _more(self) -> Steps[bool]:
        """Wait for more text; return whether any may have come."""
        if self._ended:
            return False
        yield
        return True

    def _taken(self, characters: int) -> str:
        taken, self._text = self._text[:characters], self._text[characters:]
        return taken

    def _said(self, text: str) -> None:
        """Add a piece of content."""
        if not text:
            return
        if self._parts and isinstance(last := self._parts[-1], Content):
            self._parts[-1] = Content(last.text + text)
        else:
            self._parts.append(Content(text))

    def _begun(self, name: str) -> int:
        """Add the beginning of a call; return its index."""
        index, self.calls = self.calls, self.calls + 1
        self._parts.append(CallBegun(index, f"call_{uuid4().hex[:24]}", name))
        return index

    def _argued(self, index: int, text: str) -> None:
        """Add a piece of a call's arguments."""
        if text:
            self._parts.append(CallArguments(index, text))

    def _matched(self, pattern: re.Pattern[str]) -> Steps[re.Match[str] | None]:
        """Return a match at the beginning of the text, waiting for as much of it as a call's head may have."""
        while True:
            head = self._text[:MOST_OF_A_HEAD]
            if (match := pattern.match(head)) is not None or len(head) == MOST_OF_A_HEAD:
                return match
            if not (yield from self._more()):
                return None

    def _passed(self, markers: tuple[str, ...]) -> Steps[None]:
        """Take white space and any of the markers off the beginning of the text, as far as there are some."""
        while True:
            rest = self._text.lstrip()
            if (marker := next((marker for marker in markers if rest.startswith(marker)), None)) is not None:
                self._text = rest[len(marker) :]
                continue
            may_come = any(marker.startswith(rest) for marker in markers)
            if not (may_come and (yield from self._more())):
                return


def first_of(markers: tuple[str, ...], text: str) -> tuple[int, str] | None:
    """Return where the first of the markers stands in the text, and which it is."""
    found = [(at, marker) for marker in markers if (at := text.find(marker)) >= 0]
    return min(found, default=None)


def beginning_of(markers: tuple[str, ...], text: str) -> int:
    """Return how many characters at the text's end may be the beginning of a marker."""
    longest = min(max(map(len, markers), default=1) - 1, len(text))
    return next(
        (size for size in range(longest, 0, -1) if any(marker.startswith(text[-size:]) for marker in markers)), 0
    )
