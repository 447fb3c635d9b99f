"""How many of an answer's tokens were reasoning, by where in its text the reasoning ends."""

from bisect import bisect_left
from collections.abc import Sequence

from api.engine_server.schemas import AnswerForm
from configs.tool_formats import HARMONY, REASONING

_ANALYSIS = "<|channel|>analysis"
_OTHER_CHANNELS = ("<|channel|>final", "<|channel|>commentary")
"""In Harmony's format: the channel for reasoning, and those that follow it."""


class ReasoningSpan:
    """Watches an answer's text, piece by piece, for the end of its reasoning; the markers count as reasoning."""

    def __init__(self, form: AnswerForm) -> None:
        self._opening, self._closings = "", tuple[str, ...]()
        self._ends_behind_closing = form.tool_format != HARMONY
        if form.tool_format == HARMONY:
            self._opening, self._closings = _ANALYSIS, _OTHER_CHANNELS
        elif form.reasoning in REASONING:
            self._opening, self._closings = form.reasoning, (REASONING[form.reasoning],)
        self._inside = form.begins_in_reasoning
        self._end = None if self._opening else 0
        """Characters of the answer up to the end of its reasoning, once that is known."""
        self._text, self._before = "", 0
        """What the end is looked for in, and how many characters came before it."""

    def push(self, text: str) -> None:
        """Take the next piece."""
        if self._end is not None:
            return
        self._text += text
        if self._inside or self._begins():
            self._inside = True
            self._look_for_end()

    def _begins(self) -> bool:
        """Return whether the text begins with reasoning for certain; if it can't, the reasoning has no characters."""
        begun = self._text.lstrip()
        if not self._opening.startswith(begun[: len(self._opening)]):
            self._end = 0
        return begun.startswith(self._opening)

    def _look_for_end(self) -> None:
        found = [(at, closing) for closing in self._closings if (at := self._text.find(closing)) >= 0]
        if found:
            at, closing = min(found)
            self._end = self._before + at + (len(closing) if self._ends_behind_closing else 0)
            return
        # No more is kept than may be the beginning of an end: thoughts are long.
        seen = max(0, len(self._text) - max(map(len, self._closings)) + 1)
        self._text, self._before = self._text[seen:], self._before + seen

    def tokens(self, offsets: Sequence[int]) -> int:
        """Return how many tokens were reasoning; `offsets` are the characters before each token of the answer."""
        if self._end is None:
            return len(offsets) if self._inside else 0
        return bisect_left(offsets, self._end)
