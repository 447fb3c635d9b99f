"""From an example to the text that is trained on, in the tokenizer's own chat format."""

import json
import re
from typing import Any

from transformers import PreTrainedTokenizerBase

from tasks.data.chat_rendering import ChatRendering, end_of_sequence
from tasks.data.control_tokens import ControlTokens, without_marks
from tasks.data.copying_template import only_copies
from tasks.data.examples import DatasetError, Example, Message
from tasks.data.segments import RenderedExample, Segment

IGNORED_LABEL = -100
"""Label of a token that takes no part in the loss, as in torch's cross entropy."""
MOST_PATTERNS = 1000
"""Orders of turns whose fixed texts are kept."""
_SLOT = "\U000f0002"

_Pattern = list[tuple[list[str | int], bool]]
"""For each segment its pieces, fixed texts and numbers of turns, and whether it is learned."""


class Renderer:
    """Writes examples in a tokenizer's own chat format, if it has one.

    With a chat template, what comes before an answer is what the model sees at inference: it ends where the template
    begins the assistant's turn. The answer ends with the token that ends the turn. Whitespace that the template puts
    after that token is not learned, and is left out at the very end: generation has stopped by then, and a token that
    never varies only flatters the loss. A template that ends a turn with no special token gets the tokenizer's
    end-of-sequence token there, without which the model would not learn to stop.

    Without a template: the turns one after the other, parted by newlines, the assistant's with an end of sequence.
    Text: the text, end of sequence. Both begin with the tokenizer's begin-of-sequence token if it puts one before a
    text by itself.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.control_tokens = ControlTokens(tokenizer)
        self._start = _start_of_text(tokenizer)
        template = tokenizer.chat_template
        self._only_copies = isinstance(template, str) and only_copies(template)
        self._patterns: dict[tuple[tuple[str, bool], ...], _Pattern | None] = {}

    def render(self, example: Example) -> RenderedExample:
        """Return the segments of one example.

        Raises DatasetError if the chat template fails or loses an answer, if tools need a template and there is none,
        or if an end-of-sequence token is missing.
        """
        if example.text is not None:
            return RenderedExample((Segment(self._start + example.text + end_of_sequence(self._tokenizer), True),))
        marked = self.control_tokens.must_be_marked(example)
        if self._only_copies and not marked and (pattern := self._pattern(example)) is not None:
            return _filled(pattern, example.messages)
        learned = [message.is_target for message in example.messages]
        turns = [message.for_template() for message in example.messages]
        tools = json.loads(example.tools) if example.tools is not None else None
        if marked:
            turns, tools = self.control_tokens.mark(turns), self.control_tokens.mark(tools)
        if self._tokenizer.chat_template:
            segments = ChatRendering(self._tokenizer, self.control_tokens, turns, tools).segments(learned)
        else:
            segments = self._plain(turns, tools, learned)
        if marked:
            segments = [self._encoded(segment) for segment in segments]
        return RenderedExample(tuple(segments))

    def loses_text(self, example: Example, rendered: RenderedExample) -> bool:
        """Return whether the template has left out words of some message, or written them differently."""
        text = rendered.text
        return any(message.content.strip() not in text for message in example.messages)

    def _plain(self, turns: list[dict[str, Any]], tools: Any, learned: list[bool]) -> list[Segment]:
        if tools or any("tool_calls" in turn or turn["role"] == "tool" for turn in turns):
            raise DatasetError("the row has tools, and the model has no chat template to write them in; remove them")
        segments, before = [], self._start
        for turn, is_learned in zip(turns, learned, strict=True):
            text = turn["content"]
            if turn["role"] == "assistant":
                text += end_of_sequence(self._tokenizer)
            if is_learned:
                segments += [Segment(before, learned=False), Segment(text, learned=True)]
                before = "\n"
            else:
                before += text + "\n"
        if before != "\n":
            segments.append(Segment(before.removesuffix("\n"), learned=False))
        return [segment for segment in segments if segment.text]

    def _encoded(self, segment: Segment) -> Segment:
        token_ids = self.control_tokens.encode_marked(segment.text)
        return Segment(without_marks(segment.text), segment.learned, tuple(token_ids))

    def _pattern(self, example: Example) -> _Pattern | None:
        """Return what is fixed in all conversations of this order of turns; None if more than contents vary."""
        if example.tools is not None or not all(map(_has_only_content, example.messages)):
            return None
        order = tuple((message.role, message.is_target) for message in example.messages)
        if order not in self._patterns:
            if len(self._patterns) >= MOST_PATTERNS:
                self._patterns.clear()
            self._patterns[order] = self._make_pattern(order)
        return self._patterns[order]

    def _make_pattern(self, order: tuple[tuple[str, bool], ...]) -> _Pattern | None:
        turns = [{"role": role, "content": f"{_SLOT}{turn}{_SLOT}"} for turn, (role, _) in enumerate(order)]
        rendering = ChatRendering(self._tokenizer, self.control_tokens, turns, tools=None)
        segments = rendering.segments([learned for _, learned in order])
        if not (rendering.begins_alike and segments[-1].learned):
            # Where an answer begins, or the end of the last turn, may depend on what the contents are.
            return None
        pattern: _Pattern = []
        for segment in segments:
            pieces = re.split(f"{_SLOT}([0-9]+){_SLOT}", segment.text)
            slots = [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)]
            pattern.append(([piece for piece in slots if piece != ""], segment.learned))
        return pattern


def render(example: Example, tokenizer: PreTrainedTokenizerBase) -> RenderedExample:
    """Return the segments of one example; for many, keep a `Renderer`."""
    return Renderer(tokenizer).render(example)


def _has_only_content(message: Message) -> bool:
    return message.tool_calls is None and message.name is None and message.tool_call_id is None


def _filled(pattern: _Pattern, messages: tuple[Message, ...]) -> RenderedExample:
    segments = (
        Segment("".join([piece if isinstance(piece, str) else messages[piece].content for piece in pieces]), learned)
        for pieces, learned in pattern
    )
    return RenderedExample(tuple(segments))


def _start_of_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the begin-of-sequence token if the tokenizer puts it before a text by itself, as Llama's do."""
    if tokenizer.bos_token and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
        return str(tokenizer.bos_token)
    return ""
