"""How many of an answer's tokens were reasoning, by where in its text the reasoning ends."""

from bisect import bisect_left
from collections.abc import Sequence

from api.engine_server.schemas import AnswerForm
from configs.tool_formats import HARMONY, REASONING

_AFTER_ANALYSIS = ("<|channel|>final", "<|channel|>commentary")
"""In Harmony's format: the channels that follow the one for reasoning."""


class ReasoningSpan:
    """Watches an answer's text, piece by piece, for the end of its reasoning; the markers count as reasoning."""

    def __init__(self, form: AnswerForm) -> None:
        harmony = form.tool_format == HARMONY
        self._opening = "<|channel|>analysis" if harmony else form.reasoning if form.reasoning in REASONING else None
        self._closings = _AFTER_ANALYSIS if harmony else (REASONING[self._opening],) if self._opening else ()
        self._keeps_closing = not harmony
        self._inside = form.begins_in_reasoning
        self._end: int | None = None if self._opening else 0
        self._text = ""

    def push(self, text: str) -> None:
        """Take the next piece."""
        if self._end is not None:
            return
        self._text += text
        if not self._inside:
            begun = self._text.lstrip()
            if not begun.startswith(self._opening or ""):
                if not (self._opening or "").startswith(begun):
                    self._end = 0
                return
            self._inside = True
        found = [(at, closing) for closing in self._closings if (at := self._text.find(closing)) >= 0]
        if found:
            at, closing = min(found)
            self._end = at + len(closing) if self._keeps_closing else at
            self._text = ""

    def tokens(self, offsets: Sequence[int]) -> int:
        """Return how many tokens were reasoning; `offsets` are the characters before each token of the answer."""
        if self._end is None:
            return len(offsets) if self._inside else 0
        return bisect_left(offsets, self._end)
