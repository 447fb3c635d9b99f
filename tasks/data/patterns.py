"""What is the same in all conversations of one shape, so that a template need not be rendered for each.

The template is rendered once with `tasks.data.trace` in place of a row's words. What it asks about them (whether a
content holds `</think>`) are the pattern's questions: rows that answer them alike get their text by filling slots.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from tasks.data.chat_rendering import ChatRendering
from tasks.data.control_tokens import ControlTokens
from tasks.data.examples import DatasetError, Example
from tasks.data.row_shape import Depth, Placeholders, Shape, ShapedRow
from tasks.data.segments import Segment, id_bytes
from tasks.data.tokenizers import marks_beginnings
from tasks.data.trace import PRIVATE_CHARACTERS, Trace
from tasks.data.traced_text import Check, Pieces, Slot, Untraceable

MOST_SHAPES = 1000
"""Shapes whose patterns are kept."""
MOST_PATTERNS = 4
"""Patterns of one shape: rows may answer the template's questions differently."""
_TRIMS = frozenset((way, None) for way in ("strip", "lstrip", "rstrip"))
"""Steps that leave nothing out but whitespace."""
_CONTENTS = ("", "a", " a", "\n", "  ", "é", "_", "1", "\u200b")


@dataclass(frozen=True, slots=True)
class _SegmentPattern:
    pieces: tuple[str | int, ...]
    """Fixed texts, and in between which of the pattern's slots belong there."""
    learned: bool
    token_ids: bytes
    tokenized: int
    end_ids: bytes
    ended: int

    def filled(self, texts: Sequence[str]) -> Segment:
        text = "".join([texts[piece] if type(piece) is int else piece for piece in self.pieces])  # type: ignore[misc]
        return Segment(text, self.learned, self.token_ids, self.tokenized, self.end_ids, self.ended)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A conversation without its words."""

    checks: tuple[Check, ...]
    slots: tuple[Slot, ...]
    segments: tuple[_SegmentPattern, ...]
    has_all_words: bool
    """Whether every text of the row stands in the segments, but for whitespace around it."""

    def filled(self, leaves: Sequence[Any]) -> list[Segment] | None:
        """Return the segments of a row with these values; None if the pattern is not the row's."""
        for is_so in self.checks:
            if not is_so(leaves):
                return None
        texts = [slot.of(leaves) if slot.steps else leaves[slot.leaf] for slot in self.slots]
        return [segment.filled(texts) for segment in self.segments]


class _Known:
    """The patterns of a shape, how many more are looked for, and how often they were used."""

    def __init__(self) -> None:
        self.patterns: list[Pattern] = []
        self.rows_without = 0
        self.uses = 0


class Patterns:
    """The patterns of a tokenizer's chat template."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        control_tokens: ControlTokens,
        render: Callable[[Example], list[Segment]],
    ) -> None:
        """`render` renders a row by itself."""
        self._tokenizer = tokenizer
        self._control_tokens = control_tokens
        self._has_template = bool(tokenizer.chat_template)
        self._render = render
        self._marks_beginnings = marks_beginnings(tokenizer)
        is_cut_at_tokens = tokenizer.is_fast and not tokenizer.split_special_tokens
        self._tokenizes_by_pieces = is_cut_at_tokens and not self._marks_beginnings
        self._depth = Depth()
        self._known: dict[Shape, _Known] = {}

    def segments(self, example: Example) -> tuple[list[Segment], bool]:
        """Return the segments of a conversation that spells no control token, and whether they have all of its words.

        False may also mean that this is not known. Raises DatasetError as `render` does.
        """
        row = ShapedRow(example, self._depth)
        if not self._has_template or row.shape is None:
            return self._render(example), False
        known = self._known.get(row.shape)
        if known is None:
            if len(self._known) >= MOST_SHAPES:
                self._known.clear()
            known = self._known[row.shape] = _Known()
        for pattern in known.patterns:
            if (filled := pattern.filled(row.leaves)) is not None:
                known.uses += 1
                # Ever more seldom: a mistake in what is traced must end the work, not go into it.
                if known.uses.bit_count() == 1:
                    _require_equal(filled, self._render(example))
                return filled, pattern.has_all_words
        segments = self._render(example)
        known.rows_without += 1
        # Not for the first: its shape may not come again.
        if 1 < known.rows_without <= 1 + MOST_PATTERNS and (made := self._made(example)) is not None:
            shown = made.filled(ShapedRow(example, self._depth).leaves)
            if shown is not None and _texts(shown) == _texts(segments):
                known.patterns.append(made)
        return segments, False

    def _made(self, example: Example) -> Pattern | None:
        while True:
            try:
                return self._pattern(example)
            except DatasetError:
                return None
            except Untraceable as problem:
                deeper = self._depth
                if problem.kind == "arguments":
                    deeper = replace(deeper, arguments=True)
                elif problem.kind == "tools":
                    deeper = replace(deeper, tools=True)
                if deeper == self._depth:
                    return None
                # A template that looks into calls or tools does so in all rows that have some.
                self._depth = deeper
                self._known.clear()

    def _pattern(self, example: Example, length: int = 1) -> Pattern | None:
        row, placed = ShapedRow(example, self._depth), Placeholders(example, self._depth)
        if row.shape is None:
            return None
        trace = Trace(row.leaves, placed.kinds, length)
        rendering = ChatRendering(self._tokenizer, self._control_tokens, placed.turns, placed.tools, trace)
        segments = rendering.segments([message.is_target for message in example.messages])
        if not segments[-1].learned and PRIVATE_CHARACTERS.match(segments[-1].text[-1]):
            # What is left out at its end depends on the words.
            return None
        pieces = [trace.pieces(segment.text) for segment in segments]
        slots = tuple(dict.fromkeys(piece for all_pieces in pieces for piece in all_pieces if isinstance(piece, Slot)))
        if placed.tools and not self._depth.tools and not _shows_tools(slots, placed):
            return None
        numbers = {slot: number for number, slot in enumerate(slots)}
        segment_patterns = (
            self._segment(all_pieces, segment.learned, numbers)
            for all_pieces, segment in zip(pieces, segments, strict=True)
        )
        pattern = Pattern(trace.checks(), slots, tuple(segment_patterns), _shows_words(slots, placed))
        if trace.looks_at_characters and length == 1:
            longer = self._pattern(example, length=3)
            if longer is None or (longer.slots, longer.segments) != (pattern.slots, pattern.segments):
                return None
        return pattern

    def _segment(self, pieces: Pieces, learned: bool, numbers: dict[Slot, int]) -> _SegmentPattern:
        numbered = tuple(piece if isinstance(piece, str) else numbers[piece] for piece in pieces)
        fixed = pieces[0] if isinstance(pieces[0], str) else ""
        # What marks beginnings is tokenized whole; see `Encoder`.
        head = "" if self._marks_beginnings else self._control_tokens.fixed_beginning(fixed)
        token_ids = self._ids(head)
        if head and any(
            self._ids(fixed + content) != token_ids + self._ids(fixed[len(head) :] + content) for content in _CONTENTS
        ):
            head, token_ids = "", []
        ending = pieces[-1] if len(pieces) > 1 and isinstance(pieces[-1], str) else ""
        end = self._control_tokens.fixed_end(ending) if self._tokenizes_by_pieces else ""
        end_ids, between = self._ids(end), ending.removesuffix(end)
        if end and any(self._ids(content + ending) != self._ids(content + between) + end_ids for content in _CONTENTS):
            end, end_ids = "", []
        return _SegmentPattern(numbered, learned, id_bytes(token_ids), len(head), id_bytes(end_ids), len(end))

    def _ids(self, text: str) -> list[int]:
        token_ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return token_ids


def _shows_tools(slots: Sequence[Slot], placed: Placeholders) -> bool:
    """Whether the name of some tool is written, so that no other names could stand there."""
    named = {(), (("get", "function"),), (("get", "name"),), (("get", "function"), ("get", "name"))}
    return any(
        placed.kinds[slot.leaf] == "tools" and tuple(step for step in slot.steps if step[0] != "tojson") in named
        for slot in slots
    )


def _shows_words(slots: Sequence[Slot], placed: Placeholders) -> bool:
    """Whether each of the texts is written, but perhaps for whitespace around it."""
    shown = {slot.leaf for slot in slots if all(step in _TRIMS for step in slot.steps)}
    return all(kind != "text" or leaf in shown for leaf, kind in enumerate(placed.kinds))


def _require_equal(filled: Sequence[Segment], rendered: Sequence[Segment]) -> None:
    if _texts(filled) != _texts(rendered):
        raise DatasetError(
            "the chat template writes this row otherwise than rows of the same shape, which should not be possible: "
            "please report it, with the template"
        )


def _texts(segments: Sequence[Segment]) -> list[tuple[str, bool]]:
    return [(segment.text, segment.learned) for segment in segments]
