"""A conversation in a chat template's format, cut where each answer begins and ends."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from tasks.data.control_tokens import ControlTokens
from tasks.data.examples import DatasetError
from tasks.data.segments import Segment


class ChatRendering:
    """One conversation in the template's format, and where in it each answer lies.

    Everything is found by comparing renderings, never by looking for an answer's words: they may occur anywhere.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, control_tokens: ControlTokens, turns: list[dict[str, Any]], tools: Any
    ) -> None:
        self._tokenizer = tokenizer
        self._control_tokens = control_tokens
        self._turns = turns
        self._tools = tools
        self._text = self._render(turns)
        self.begins_alike = True
        """Whether each answer begins in the full rendering as it does for generation."""

    def segments(self, learned: Sequence[bool]) -> list[Segment]:
        """Return the text in its order; `learned` says of each turn whether it is."""
        segments, done = [], 0
        for turn, is_learned in enumerate(learned):
            if not is_learned:
                continue
            opening = self._generation_prompt(turn)
            start, end = self._span(turn, opening)
            if opening is not None and opening.startswith(self._text[:done]):
                # Some templates open the turn otherwise for generation (say, with `<think>`) than they show a past
                # one. The model must learn to answer after the opening that it sees at inference.
                before = opening[done:]
            else:
                before = self._text[done:start]
            answer = self._text[start:end]
            ended = answer.rstrip()
            if self._control_tokens.last_in(ended):
                done = start + len(ended)
                answer = ended
            else:
                done = end
                answer += end_of_sequence(self._tokenizer)
            segments += [Segment(before, learned=False), Segment(answer, learned=True)]
        segments.append(Segment(self._text[done:].rstrip(), learned=False))
        return [segment for segment in segments if segment.text]

    def _render(self, turns: list[dict[str, Any]], *, generating: bool = False) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                turns, tools=self._tools, tokenize=False, add_generation_prompt=generating
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise DatasetError(f"the tokenizer's chat template cannot render the conversation: {error}") from error
        return str(text)

    def _generation_prompt(self, turn: int) -> str | None:
        """Return what the model is given before it writes this turn; None before the first, where it is nothing."""
        return self._render(self._turns[:turn], generating=True) if turn else None

    def _span(self, turn: int, opening: str | None) -> tuple[int, int]:
        """Return where the answer starts and where its turn ends."""
        text, is_last = self._text, turn == len(self._turns) - 1
        begins = opening is not None and text.startswith(opening)
        self.begins_alike &= begins
        start = len(opening) if opening is not None and begins else self._content(turn)[0]
        if is_last:
            return start, len(text)
        closed = self._render(self._turns[: turn + 1])
        if text.startswith(closed) and len(closed) >= start:
            return start, len(closed)
        # The template shows a past turn otherwise than a last one (without its reasoning), but ends both alike.
        token = self._control_tokens.last_in(closed.rstrip())
        end = self._control_tokens.end_of(token, text, start) if token else None
        return start, end or self._content(turn)[1]

    def _content(self, turn: int) -> tuple[int, int]:
        """Return where a turn's content lies, as the part that changes when another content is put in its place."""
        mark = "[another answer]"
        while mark in self._text:
            mark += "]"
        other = self._render([*self._turns[:turn], {**self._turns[turn], "content": mark}, *self._turns[turn + 1 :]])
        before, found, after = other.partition(mark)
        start, end = len(before), len(self._text) - len(after)
        is_same = self._text.startswith(before) and self._text.endswith(after) and start <= end
        if not found or not is_same or self._turns[turn]["content"].strip() not in self._text[start:end]:
            raise DatasetError(
                "the tokenizer's chat template changes or drops the assistant's answer, so it cannot be trained on"
            )
        return start, end


def end_of_sequence(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the token that ends a text; raises DatasetError if the tokenizer has none."""
    if not tokenizer.eos_token:
        raise DatasetError("the tokenizer has no end-of-sequence token, so a model could not learn to stop")
    return str(tokenizer.eos_token)
