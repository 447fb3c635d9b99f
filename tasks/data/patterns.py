"""What is the same in all conversations of one order of turns, so that a template need not be rendered for each."""

import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from tasks.data.chat_rendering import ChatRendering
from tasks.data.control_tokens import ControlTokens
from tasks.data.copying_template import only_copies
from tasks.data.examples import Example, Message
from tasks.data.segments import Segment
from tasks.data.tokenizers import marks_beginnings

MOST_PATTERNS = 1000
"""Orders of turns whose patterns are kept."""
_SLOT = "\U000f0002"
_CONTENTS = ("", "a", " a", "\n", "  ", "é", "_", "1", "\u200b")

_Order = tuple[tuple[str, bool], ...]
"""Of each turn its role, and whether it is learned."""


@dataclass(frozen=True, slots=True)
class _SegmentPattern:
    pieces: tuple[str | int, ...]
    """Fixed texts, and in between the numbers of the turns whose contents belong there."""
    learned: bool
    token_ids: tuple[int, ...]
    tokenized: int

    def filled(self, messages: tuple[Message, ...]) -> Segment:
        text = "".join([piece if isinstance(piece, str) else messages[piece].text for piece in self.pieces])
        return Segment(text, self.learned, self.token_ids, self.tokenized)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A conversation without its contents."""

    segments: tuple[_SegmentPattern, ...]

    def filled(self, messages: tuple[Message, ...]) -> list[Segment]:
        """Return the segments with these contents."""
        return [segment.filled(messages) for segment in self.segments]


class Patterns:
    """The patterns of a tokenizer's chat template; none if it does more with contents than to copy them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, control_tokens: ControlTokens) -> None:
        self._tokenizer = tokenizer
        self._control_tokens = control_tokens
        self._only_copies = isinstance(tokenizer.chat_template, str) and only_copies(tokenizer.chat_template)
        self._marks_beginnings = marks_beginnings(tokenizer)
        self._known: dict[_Order, Pattern | None] = {}

    def of(self, example: Example) -> Pattern | None:
        """Return the pattern of a conversation that spells no control token; None if more than contents vary."""
        if not self._only_copies or example.tools is not None:
            return None
        if not all(message.has_only_content for message in example.messages):
            return None
        order = tuple((message.role, message.is_target) for message in example.messages)
        if order not in self._known:
            if len(self._known) >= MOST_PATTERNS:
                self._known.clear()
            self._known[order] = self._make(order)
        return self._known[order]

    def _make(self, order: _Order) -> Pattern | None:
        turns = [{"role": role, "content": f"{_SLOT}{turn}{_SLOT}"} for turn, (role, _) in enumerate(order)]
        rendering = ChatRendering(self._tokenizer, self._control_tokens, turns, tools=None)
        segments = rendering.segments([learned for _, learned in order])
        if not (rendering.begins_alike and segments[-1].learned):
            # Where an answer begins, or the end of the last turn, may depend on what the contents are.
            return None
        return Pattern(tuple(map(self._segment, segments)))

    def _segment(self, segment: Segment) -> _SegmentPattern:
        fixed, *rest = re.split(f"{_SLOT}([0-9]+){_SLOT}", segment.text)
        pieces = [fixed, *(piece if place % 2 else int(piece) for place, piece in enumerate(rest))]
        # What marks beginnings is tokenized whole; see `Encoder`.
        head = "" if self._marks_beginnings else self._control_tokens.fixed_beginning(fixed)
        token_ids = self._ids(head)
        if any(
            self._ids(fixed + content) != token_ids + self._ids(fixed[len(head) :] + content) for content in _CONTENTS
        ):
            head, token_ids = "", []
        return _SegmentPattern(tuple(pieces), segment.learned, tuple(token_ids), len(head))

    def _ids(self, text: str) -> list[int]:
        token_ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return token_ids
