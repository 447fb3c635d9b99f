"""A conversation in a chat template's format, cut where each answer begins and ends."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from tasks.data.chat_template import ChatTemplate, Turn
from tasks.data.control_tokens import ControlTokens
from tasks.data.examples import DatasetError
from tasks.data.learned_words import require_all_words
from tasks.data.segments import Segment
from tasks.data.tokenizers import adds_eos
from tasks.data.trace import Trace
from tasks.data.traced_template import render_traced

_OPENS_REASONING = ("<think>", "<thinking>", "<reasoning>", "[THINK]")
_MARKS = ("[another answer]", "{one more answer}")


class ChatRendering:
    """One conversation in the template's format, and where in it each answer lies.

    A template that marks what is generated is taken at its word. In that of any other everything is found by comparing
    renderings, never by looking for an answer's words: they may occur anywhere.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        control_tokens: ControlTokens,
        turns: list[Turn],
        tools: Any,
        trace: Trace | None = None,
    ) -> None:
        """With a trace, the turns have slots for words, and what depends on the words is noted."""
        self._tokenizer = tokenizer
        self._control_tokens = control_tokens
        self._trace = trace
        self._template = ChatTemplate(tokenizer, tools, render=trace and partial(render_traced, trace))
        self._turns, self._text = self._template.suited(turns)
        if trace:
            trace.suits(turns, self._text, self._template.unsuited)
        self._tools = tools

    def segments(self, learned: Sequence[bool]) -> list[Segment]:
        """Return the text in its order; `learned` says of each turn whether it is.

        Raises DatasetError, naming the field, if the template leaves out or changes what is to be learned, or leaves
        out what it is to be learned from.
        """
        if self._template.marks_answers:
            segments, answers = self._marked(learned)
        else:
            segments, answers = self._compared(learned)
        require_all_words(self._template, self._turns, self._tools, self._text, answers)
        return [segment for segment in segments if segment.text]

    def _marked(self, learned: Sequence[bool]) -> tuple[list[Segment], dict[int, str]]:
        text, spans = self._template.render_marked(self._turns)
        segments, done, answers = [], 0, dict.fromkeys((turn for turn, wanted in enumerate(learned) if wanted), "")
        begins = [
            (self._common_length(text, self._template.render(self._turns[:turn])) if turn else 0, turn)
            for turn, message in enumerate(self._turns)
            if message["role"] == "assistant"
        ]
        for start, end in spans:
            turn = max((turn for begin, turn in begins if begin <= start), default=begins[0][1])
            if turn in answers:
                segments += [Segment(text[done:start], learned=False), Segment(text[start:end], learned=True)]
                answers[turn] += text[start:end]
                done = end
        segments.append(Segment(text[done:].rstrip(), learned=False))
        for turn, answer in answers.items():
            if not answer:
                raise DatasetError(
                    f"the chat template marks nothing of message {turn + 1} as generated, so it can't be learned"
                )
        return segments, answers

    def _compared(self, learned: Sequence[bool]) -> tuple[list[Segment], dict[int, str]]:
        segments, done, answers = [], 0, {}
        for turn, is_learned in enumerate(learned):
            if not is_learned:
                continue
            opening = self._template.render(self._turns[:turn], generating=True) if turn else None
            start, end = self._span(turn, opening)
            if not done <= start <= end:
                raise DatasetError(
                    f"in the chat template's format it can't be told where message {turn + 1} begins and ends, so it "
                    "can't be learned; give it weight 0, or choose another chat_template"
                )
            before = self._text[done:start]
            if (
                opening is not None
                and self._begins(opening, self._text[:done])
                and not self._waits_for_reasoning(opening, self._text[start:end])
            ):
                # Some templates open the turn otherwise for generation than they show a past one. The model must
                # learn to answer after the opening that it sees at inference.
                before = opening[done:]
            answer = answers[turn] = self._text[start:end]
            ended = answer.rstrip()
            if self._control_tokens.last_in(ended):
                done = start + len(ended)
                answer = ended
            else:
                done = end
                answer += end_of_sequence(self._tokenizer)
            segments += [Segment(before, learned=False), Segment(answer, learned=True)]
        segments.append(Segment(self._text[done:].rstrip(), learned=False))
        return segments, answers

    def _waits_for_reasoning(self, opening: str, answer: str) -> bool:
        """Whether generation begins within reasoning that this answer does not close.

        It must not follow such an opening: the model would learn never to close it.
        """
        begun = next((tag for tag in _OPENS_REASONING if opening.rstrip().endswith(tag)), None)
        if begun is None:
            return False
        closed = begun.replace("<", "</").replace("[", "[/")
        if self._trace:
            self._trace.lacks(answer, closed)
        return closed not in answer

    def _span(self, turn: int, opening: str | None) -> tuple[int, int]:
        """Return where the answer starts and where its turn ends."""
        text = self._text
        varies: tuple[int, int] | None = None
        if opening is not None and self._begins(text, opening):
            start = len(opening)
        else:
            varies = self._varies(turn, self._turns, text)
            start = self._start(turn, opening, varies[0]) if opening is not None else varies[0]
        if turn == len(self._turns) - 1:
            return start, len(text)
        past = self._turns[: turn + 1]
        closed = self._template.render(past)
        if self._begins(text, closed) and len(closed) >= start:
            return start, len(closed)
        # The template shows a past turn otherwise than a last one: without its reasoning, or ended by another token.
        _, varied = varies or self._varies(turn, self._turns, text)
        after, closing = text[varied:], closed[self._varies(turn, past, closed)[1] :]
        shared = after[: _common_length(after, closing)]
        if length := self._control_tokens.length_to_last(shared):
            return start, varied + length
        first = self._control_tokens.first_in(text, varied)
        if first is not None and not text[varied + len(shared) : first.start()].strip():
            return start, first.end()
        raise DatasetError(
            f"in the chat template's format it can't be told where message {turn + 1} ends, so it can't be learned; "
            "give it weight 0, or choose another chat_template"
        )

    def _start(self, turn: int, opening: str, varied: int) -> int:
        """Return where an answer starts that does not begin as for generation; at `varied` it does for certain.

        What the template itself writes before a call belongs to it, and so does the end of empty reasoning.
        """
        shared = min(self._common_length(opening, self._text), varied)
        before = self._varies(turn - 1, self._turns, self._text)[1]
        if shared >= before:
            return shared
        begins = opening[self._common_length(opening, self._template.render(self._turns[:turn])) :]
        found = self._text.rfind(begins, before, varied) if begins else -1
        return varied if found < 0 else found + len(begins)

    def _begins(self, text: str, beginning: str) -> bool:
        return text.startswith(beginning) or self._common_length(text, beginning) == len(beginning)

    def _common_length(self, one: str, other: str) -> int:
        length = _common_length(one, other)
        if self._trace:
            self._trace.differ(one, other, length)
        return length

    def _varies(self, turn: int, turns: list[Turn], text: str) -> tuple[int, int]:
        """Return the part of `text`, the rendering of `turns`, that changes with another answer in a turn's place."""
        start, end = len(text), 0
        # Two that differ in their first and last characters: no answer begins or ends like both.
        for mark in _MARKS:
            changed = another(turns[turn], mark)
            if changed == turns[turn]:
                continue
            other = self._template.render([*turns[:turn], changed, *turns[turn + 1 :]])
            if other == text or mark not in other:
                raise DatasetError(
                    f"the tokenizer's chat template changes or drops message {turn + 1}, so it cannot be trained on"
                )
            begins = _common_length(text, other)
            rest = min(len(text), len(other)) - begins
            start = min(start, begins)
            end = max(end, len(text) - min(rest, _common_length(text[::-1], other[::-1])))
        return start, end


def another(turn: Turn, mark: str) -> Turn:
    """Return a turn of the same kind that says something else, ending in `mark`."""
    changed = turn | {field: mark for field in ("content", "reasoning_content") if turn.get(field)}
    if turn.get("tool_calls"):
        return changed | {"tool_calls": [_another_call(call, mark) for call in turn["tool_calls"]]}
    return changed | {"content": mark}


def _another_call(call: dict[str, Any], mark: str) -> dict[str, Any]:
    function = call["function"]
    arguments = f'{{"{mark}": "{mark}"}}' if isinstance(function["arguments"], str) else {mark: mark}
    return call | {"function": function | {"name": mark, "arguments": arguments}}


def _common_length(one: str, other: str) -> int:
    """Return how many characters the two texts begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def end_of_sequence(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the token that ends a text, "" where none is wanted; raises DatasetError if the tokenizer has none."""
    if not adds_eos(tokenizer):
        return ""
    if not tokenizer.eos_token:
        raise DatasetError("the tokenizer has no end-of-sequence token, so a model could not learn to stop")
    return str(tokenizer.eos_token)
