"""Conversations that are longer than a row may be, split between their turns into windows that are not."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tasks.data.examples import DatasetError, Example
from tasks.data.fingerprint import TokenizerContent, split_fingerprint
from tasks.data.rows import ExampleRows
from tasks.data.token_cache import cached_table
from tasks.data.tokenized_rows import TokenTable
from tasks.data.tokenizing import Encoder, TokenBatch, token_batches
from tasks.data.tool_forms import ToolRenderer


class Splitter:
    """Splits conversations for one tokenizer and one length."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> None:
        self._renderer, self._encoder = ToolRenderer(tokenizer), Encoder(tokenizer)
        self._longest = max_seq_length

    def windows(self, example: Example) -> list[Example]:
        """Return the conversation in windows of at most `max_seq_length` tokens; one that fits is its only window.

        Each learned turn is learned in exactly one window, the windows in their order. A window begins with the system
        messages (and has the tools), goes on from the beginning or from a user's message, and ends with a learned turn:
        as many of them as fit, and then as much of what was before as fits. Raises DatasetError, naming it, for a
        turn that is too long even with nothing before it but the question it answers.
        """
        if self._tokens(example) <= self._longest:
            return [example]
        parts = _Parts(example)
        windows, done = [], 0
        while done < len(parts.targets):
            nearest = max(number for number, start in enumerate(parts.starts) if start <= parts.targets[done])
            tokens = self._tokens(parts.window(nearest, done, done))
            if tokens > self._longest:
                raise DatasetError(parts.too_long(done, tokens, self._longest))

            def to(last: int, first: int = done, start: int = nearest) -> bool:
                return self._fits(parts.window(start, first, last))

            last = _furthest(done, len(parts.targets) - 1, to)

            def back(steps: int, first: int = done, last: int = last, start: int = nearest) -> bool:
                return self._fits(parts.window(start - steps, first, last))

            windows.append(parts.window(nearest - _furthest(0, nearest, back), done, last))
            done = last + 1
        return windows

    def _fits(self, example: Example) -> bool:
        return self._tokens(example) <= self._longest

    def _tokens(self, example: Example) -> int:
        return int(self._encoder.encode([self._renderer.row(example)[0]]).lengths[0])


class _Parts:
    """Where windows of a conversation may begin and end."""

    def __init__(self, example: Example) -> None:
        self._example = example
        roles = [message.role for message in example.messages]
        self._head = next(turn for turn, role in enumerate(roles) if role != "system")
        self.starts = [self._head, *(turn for turn, role in enumerate(roles) if turn > self._head and role == "user")]
        self.targets = [turn for turn, message in enumerate(example.messages) if message.is_target]

    def window(self, start: int, first: int, last: int) -> Example:
        """Return the window from a start to a learned turn, of which those from `first` on are learned."""
        messages = self._example.messages
        begin, learned = self.starts[start], self.targets[first]
        turns = [
            message if turn >= learned or message.role != "assistant" else replace(message, learned=False, weight=1.0)
            for turn, message in enumerate(messages[: self.targets[last] + 1])
        ]
        return replace(self._example, messages=(*turns[: self._head], *turns[begin:]))

    def too_long(self, target: int, tokens: int, longest: int) -> str:
        """Return what to say of a turn that no window has room for."""
        return (
            f"messages[{self.targets[target]}] has {tokens} tokens with the question that it answers and the system "
            f"message, more than max_seq_length={longest}, so no window holds it; raise max_seq_length, or give the "
            "turn weight 0"
        )


def _furthest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number from `low`, which fits, to `high` that does, given that smaller ones do."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def too_long_rows(table: TokenTable, max_seq_length: int) -> NDArray[np.int64]:
    """Return the positions of the conversations that are longer than a row may be."""
    return np.flatnonzero((table.lengths > max_seq_length) & ~table.is_text)


@dataclass(frozen=True, slots=True)
class SplitRows:
    """The windows of all conversations of a table that are too long."""

    table: TokenTable
    """A window a row, in the order of the conversations."""
    positions: NDArray[np.int64]
    """Which rows were split, ascending."""
    counts: NDArray[np.int64]
    """Windows of each."""


def split_conversations(
    examples: ExampleRows,
    table: TokenTable,
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    cache_dir: Path,
    content: TokenizerContent,
) -> SplitRows | None:
    """Return the windows of the conversations in `table` that are too long, cached; None if none is.

    `content` is the tokenizer's. Raises DatasetError with the row's number for one that can't be split.
    """
    positions = too_long_rows(table, max_seq_length)
    if len(positions) == 0:
        return None
    folder = cache_dir / f"tokens-{split_fingerprint(examples.hashes, content, max_seq_length)}"
    windows = cached_table(folder, lambda: _window_batches(examples, positions, tokenizer, max_seq_length))
    ends = np.flatnonzero(~windows.goes_on)
    return SplitRows(windows, positions, np.diff(ends, prepend=-1))


def _window_batches(
    examples: ExampleRows, positions: NDArray[np.int64], tokenizer: PreTrainedTokenizerBase, max_seq_length: int
) -> Iterator[TokenBatch]:
    splitter, links = Splitter(tokenizer, max_seq_length), deque[tuple[int, int]]()

    def windows() -> Iterator[Example]:
        for position in positions.tolist():
            try:
                made = splitter.windows(examples.example(position))
            except DatasetError as error:
                raise DatasetError(f"row {examples.number(position)}: {error}") from error
            borders = [0, *[position + 1] * (len(made) - 1), 0]
            links.extend(pairwise(borders))
            yield from made

    for batch in token_batches(windows(), tokenizer):
        yield replace(batch, links=np.array([links.popleft() for _ in range(len(batch))], np.int32))
