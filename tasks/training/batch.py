"""From rows of token ids to micro-batches, and to the padded tensors that any model reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from tasks.data.segments import IGNORED_LABEL
from tasks.training.errors import RowError


class TokenRow(Protocol):
    """One sample: token ids, and for each the id to learn, or -100 where there is nothing to learn; not shifted."""

    @property
    def input_ids(self) -> list[int]:
        """The tokens."""
        ...

    @property
    def labels(self) -> list[int]:
        """As long as `input_ids`."""
        ...

    @property
    def weights(self) -> list[float] | None:
        """What each label counts in the loss, as long as `labels`, more than 0 where there is one; None: 1 each."""
        ...


@dataclass(frozen=True)
class BlankRow:
    """A row of one token, with nothing to learn: it adds zero to a loss and to its gradient."""

    input_ids: list[int] = field(default_factory=lambda: [0])
    labels: list[int] = field(default_factory=lambda: [IGNORED_LABEL])
    weights: None = None


@dataclass(frozen=True)
class MicroBatch:
    """Padded rows. Tensors have the shape (rows, longest row), int64 but for `weights`, float32.

    `targets[i, t]` is the label of token t + 1, and `weights[i, t]` what it counts in the loss; None: 1 each.
    """

    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor
    weights: Tensor | None = None

    @property
    def labelled(self) -> int:
        """The number of tokens to predict."""
        return int((self.targets != IGNORED_LABEL).sum())

    @property
    def weight(self) -> float:
        """What the tokens to predict count together."""
        return self.labelled if self.weights is None else self.weights.sum(dtype=torch.float64).item()

    @property
    def tokens(self) -> int:
        """The number of tokens that are not padding."""
        return int(self.attention_mask.sum())

    def to(self, device: torch.device) -> "MicroBatch":
        """Return the same batch on `device`."""
        weights = None if self.weights is None else self.weights.to(device)
        return MicroBatch(self.input_ids.to(device), self.attention_mask.to(device), self.targets.to(device), weights)


def check_rows(rows: Sequence[TokenRow], longest: int | None) -> None:
    """Raise RowError, naming the row, for one that can't be trained on.

    `longest` is the most tokens the model takes. The first label has no token before it to predict it from, so it
    does not count.
    """
    for number, row in enumerate(rows):
        length, labels = len(row.input_ids), row.labels
        if len(labels) != length:
            raise RowError(f"row {number} has {length} tokens but {len(labels)} labels")
        if all(label == IGNORED_LABEL for label in labels[1:]):
            raise RowError(f"row {number} has no answer token to learn: raise max_seq_length or leave the row out")
        if longest is not None and length > longest:
            raise RowError(f"row {number} has {length} tokens, the model takes {longest}: lower max_seq_length")


def collate(rows: Sequence[TokenRow], pad_token_id: int) -> MicroBatch:
    """Pad `rows` on the right to the longest of them."""
    width = max(len(row.input_ids) for row in rows)
    input_ids = torch.full((len(rows), width), pad_token_id)
    attention_mask = torch.zeros((len(rows), width), dtype=torch.long)
    targets = torch.full((len(rows), width), IGNORED_LABEL)
    for number, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[number, :length] = torch.tensor(row.input_ids)
        attention_mask[number, :length] = 1
        targets[number, : length - 1] = torch.tensor(row.labels[1:])
    return MicroBatch(input_ids, attention_mask, targets, _weights(rows, targets))


def _weights(rows: Sequence[TokenRow], targets: Tensor) -> Tensor | None:
    """Return what each target counts, 0 where there is none; None if each counts 1."""
    if all(row.weights is None for row in rows):
        return None
    weights = (targets != IGNORED_LABEL).float()
    for number, row in enumerate(rows):
        if row.weights is not None:
            weights[number, : len(row.weights) - 1] *= torch.tensor(row.weights[1:])
    return weights


def longest_first(rows: Sequence[TokenRow], batch_size: int, switch: int | None = None) -> list[list[TokenRow]]:
    """Split `rows` into batches of `batch_size`, rows of similar length together.

    Within one optimizer step the order of rows changes nothing but the padding. The longest come first: a step that
    does not fit in memory fails at once. Rows longer than `switch`, if given, and others are in batches of their own.
    """
    ordered = sorted(rows, key=lambda row: len(row.input_ids), reverse=True)
    beyond = sum(len(row.input_ids) > switch for row in ordered) if switch is not None else 0
    kinds = (ordered[:beyond], ordered[beyond:])
    return [kind[start : start + batch_size] for kind in kinds for start in range(0, len(kind), batch_size)]
