"""What an evaluation's numbers were measured under: what two of them must share to be compared."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tasks.data.report import percentile

REFERENCE_SHARE = 0.95
FEWEST_NEW_TOKENS, MOST_NEW_TOKENS = 16, 1024
"""Bounds of a length that is taken from the references: one below them says little, one above costs hours on a CPU."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What an evaluation's numbers were measured under. Lengths are in tokens.

    `max_new_tokens`, `stopped_responses` and `tokenizer` are None where nothing was generated.
    """

    max_seq_length: int
    max_new_tokens: int | None
    rows: int
    """Rows that were measured."""
    left_out_rows: int
    """Rows that were not, as their prompt did not fit."""
    stopped_responses: int | None
    """Responses that ended at `max_new_tokens` while their reference is longer."""
    tokenizer: str | None = None
    """How BLEU, ROUGE-L and diversity split texts."""

    def notes(self) -> list[str]:
        """Return what to know before believing the numbers, in sentences."""
        notes = []
        if self.left_out_rows:
            notes.append(
                f"{self.left_out_rows} of {self.rows + self.left_out_rows} rows were left out: their prompt does not "
                f"fit into max_seq_length ({self.max_seq_length}), or leaves no room for a response in the model's "
                "context."
            )
        if self.stopped_responses:
            notes.append(
                f"{self.stopped_responses} of {self.rows} responses were stopped at max_new_tokens "
                f"({self.max_new_tokens}) while their references go on: BLEU and ROUGE-L of those are lower for it."
            )
        return notes

    def as_json(self) -> dict[str, Any]:
        """Return the fields and the notes, as they are stored."""
        return {**asdict(self), "notes": self.notes()}


def response_limit(reference_lengths: Sequence[int], max_seq_length: int, context_length: int) -> int:
    """Return the 95th percentile (nearest rank) of the references' tokens, from 16 to 1024.

    Nor is it more than `max_seq_length`, as longer rows were not learned, or than half of the context, which would
    leave no room for prompts. Raises ValueError without references.
    """
    if not reference_lengths:
        raise ValueError("there is no reference to take a length from")
    longest = percentile(np.sort(np.array(reference_lengths, dtype=np.int32)), REFERENCE_SHARE)
    return min(max(longest, FEWEST_NEW_TOKENS), MOST_NEW_TOKENS, max_seq_length, max(context_length // 2, 1))
