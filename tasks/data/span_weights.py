"""What each learned segment of a row counts in the loss: its turn's weight, multiplied with the row's."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tasks.data.examples import DatasetError, Example
from tasks.data.segments import RenderedExample, Segment


def span_weights(
    example: Example, segments: Sequence[Segment], render: Callable[[Example], RenderedExample]
) -> tuple[float, ...]:
    """Return a number for each learned one of the example's `segments`; none if all of them are 1.

    A template may mark several pieces of one turn as generated: then `render` tells how many each turn has. Raises
    DatasetError if that does not add up.
    """
    if not example.is_weighted:
        return ()
    if example.text is not None:
        return (example.weight,)
    learned = sum(segment.learned for segment in segments)
    targets = [turn for turn, message in enumerate(example.messages) if message.is_target]
    counts = [1] * len(targets)
    if learned != len(targets):
        counts = [sum(segment.learned for segment in render(_only(example, turn)).segments) for turn in targets]
    if learned != sum(counts):
        raise DatasetError("in the chat template's format it can't be told which words each message's weight is for")
    weights = [example.weight * example.messages[turn].weight for turn in targets]
    return tuple(weight for weight, count in zip(weights, counts, strict=True) for _ in range(count))


def _only(example: Example, turn: int) -> Example:
    """Return the example with one of its turns learned, and no weights."""
    messages = tuple(
        replace(message, learned=message.role != "assistant" or number == turn, weight=1.0)
        for number, message in enumerate(example.messages)
    )
    return replace(example, messages=messages, weight=1.0)
