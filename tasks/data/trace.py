"""One row's way through a chat template: its values as slots in a text, and what that text depends on besides."""

import re
from typing import Any

from tasks.data.control_tokens import MARKS
from tasks.data.traced_text import Answers, Pieces, Question, Slot, Traced, Untraceable, value_of

_OPEN, _DERIVED = "\U000f0002", "\U000f0003"
_SLOT = re.compile(f"(?:{_DERIVED}([0-9]+))?{_OPEN}([0-9]+){_OPEN}")
_DUMPED_SLOT = re.compile(f'{{"{_OPEN}([0-9]+){_OPEN}": "{_OPEN}[0-9]+{_OPEN}"}}|{_OPEN}([0-9]+){_OPEN}')
PRIVATE_CHARACTERS = re.compile(f"[{MARKS}{_OPEN}{_DERIVED}]")
"""A row that has one of them is rendered by itself: they mean something in the texts made of it."""


def text_slot(leaf: int) -> str:
    """Return what stands for a text of the row. What is made of the text has it in it too."""
    return f"{_OPEN}{leaf}{_OPEN}"


def value_slot(leaf: int) -> dict[str, str]:
    """Return what stands for another JSON value."""
    return {text_slot(leaf): text_slot(leaf)}


class Trace(Answers):
    """Texts with slots in place of the row's values, and all that was asked on the way."""

    def __init__(self, *row: Any) -> None:
        super().__init__(*row)
        self._derived: dict[Slot, int] = {}

    def traced(self, value: Any) -> Any:
        """Return a JSON value with traced ones for its slots."""
        if isinstance(value, str):
            return self._traced_text(value) if _OPEN in value else value
        if isinstance(value, list):
            return [self.traced(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) == 1 and (match := _SLOT.fullmatch(next(iter(value)))):
            return Traced(self, (Slot(int(match[2]), is_text=False),))
        return {name: self.traced(item) for name, item in value.items()}

    def _traced_text(self, text: str) -> Traced:
        if match := _SLOT.fullmatch(text):
            return Traced(self, (Slot(int(match[2]), is_text=True),))
        # A call's arguments, written as JSON before the template sees them.
        pieces: list[str | Slot] = []
        done = 0
        for match in _DUMPED_SLOT.finditer(text):
            step = ("tojson", ()) if match[1] else ("within json", None)
            pieces += [text[done : match.start()], Slot(int(match[1] or match[2]), True, (step,))]
            done = match.end()
        return Traced(self, ()).joined((*pieces, text[done:]))

    def untraced(self, value: Any) -> Any:
        """Return a JSON value with the row's own values in its slots."""
        return _untraced(self.traced(value), self.leaves)

    def written(self, value: Any) -> str:
        """Return what a template prints, with slots in it."""
        if not isinstance(value, Traced):
            return str(value)
        pieces = value.printed().pieces
        return "".join([piece if isinstance(piece, str) else self._written(piece) for piece in pieces])

    def _written(self, slot: Slot) -> str:
        number = self._derived.setdefault(slot, len(self._derived))
        return (f"{_DERIVED}{number}" if slot.steps else "") + text_slot(slot.leaf)

    def pieces(self, text: str) -> Pieces:
        """Return the text taken apart; none of the pieces is empty."""
        slots = list(self._derived)
        pieces: list[str | Slot] = []
        done = 0
        for match in _SLOT.finditer(text):
            slot = slots[int(match[1])] if match[1] else Slot(int(match[2]), is_text=True)
            pieces += [text[done : match.start()], slot]
            done = match.end()
        return tuple(piece for piece in (*pieces, text[done:]) if piece != "")

    def suits(self, turns: list[dict[str, Any]], text: str, unsuited: list[str]) -> None:
        """Note by what `ChatTemplate.suited` has told these texts apart: the first content is in one of them only."""
        content = next((turn["content"] for turn in turns if turn["content"]), "")
        if content not in text:
            raise Untraceable("a form that might not suit other words")
        for other in unsuited:
            self._must_be(False, self.pieces(content), "is within", self.pieces(other))

    def differ(self, one: str, other: str, at: int) -> None:
        """Note that two texts differ from there on, which with other values in their slots they might not."""
        if at == min(len(one), len(other)):
            return
        if any(at < match.end() and at > match.start() for match in _SLOT.finditer(one)):
            raise Untraceable("two texts have different values in one place")
        for text, character in ((one, other[at]), (other, one[at])):
            if match := _SLOT.match(text, at):
                self._must_be(False, (self.pieces(match[0])), "startswith", character)

    def lacks(self, text: str, words: str) -> None:
        """Note that none of the values in `text` has these words."""
        for piece in self.pieces(text):
            if isinstance(piece, Slot):
                self._must_be(False, (piece,), "contains", words)

    def _must_be(self, expected: bool, pieces: Pieces, name: str, argument: Any) -> None:
        if self.answer(Question(pieces, name, argument)) is not expected:
            raise Untraceable(f"{name} {argument!r}")


def _untraced(value: Any, leaves: Any) -> Any:
    if isinstance(value, Traced):
        return value_of(value.pieces, leaves)
    if isinstance(value, list):
        return [_untraced(item, leaves) for item in value]
    return {name: _untraced(item, leaves) for name, item in value.items()} if isinstance(value, dict) else value
