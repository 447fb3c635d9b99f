"""Packed rows: concatenated without padding, with their lengths, so that attention stays within each row."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.data.segments import IGNORED_LABEL
from tasks.training.batch import TokenRow


@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch. `input_ids` and `positions` are int64 of shape (tokens,); positions restart with every row."""

    input_ids: Tensor
    positions: Tensor
    lengths: list[int]
    """Tokens of each row, in order."""
    predicting: Tensor
    """int64, ascending: the tokens after which a labelled one comes. Logits are needed there only."""
    targets: Tensor
    """int64, as long as `predicting`: the token to predict."""
    predicted: list[int]
    """Tokens to predict of each row, in order; they add up to `labelled`."""
    weights: Tensor | None = None
    """float32, as long as `targets`: what each counts in the loss; None: 1 each."""

    @property
    def labelled(self) -> int:
        """The number of tokens to predict."""
        return len(self.targets)

    @property
    def weight(self) -> float:
        """What the tokens to predict count together."""
        return self.labelled if self.weights is None else self.weights.sum(dtype=torch.float64).item()

    @property
    def tokens(self) -> int:
        """The number of tokens read."""
        return len(self.input_ids)

    def to(self, device: torch.device) -> "PackedBatch":
        """Return the same batch on `device`."""
        return PackedBatch(
            self.input_ids.to(device),
            self.positions.to(device),
            self.lengths,
            self.predicting.to(device),
            self.targets.to(device),
            self.predicted,
            None if self.weights is None else self.weights.to(device),
        )


def pack(rows: Sequence[TokenRow]) -> PackedBatch:
    """Concatenate `rows`."""
    # The label of token t + 1 is predicted at token t; a row's last token predicts nothing.
    labels = [(*row.labels[1:], IGNORED_LABEL) for row in rows]
    shifted = torch.tensor([label for its in labels for label in its])
    predicting = (shifted != IGNORED_LABEL).nonzero().squeeze(1)
    return PackedBatch(
        input_ids=torch.tensor([token for row in rows for token in row.input_ids]),
        positions=torch.cat([torch.arange(len(row.input_ids)) for row in rows]),
        lengths=[len(row.input_ids) for row in rows],
        predicting=predicting,
        targets=shifted[predicting],
        predicted=[len(its) - its.count(IGNORED_LABEL) for its in labels],
        weights=_weights(rows, predicting),
    )


def _weights(rows: Sequence[TokenRow], predicting: Tensor) -> Tensor | None:
    """Return what the token after each of `predicting` counts; None if each counts 1."""
    if all(row.weights is None for row in rows):
        return None
    shifted = [weight for row in rows for weight in (*(row.weights or [1.0] * len(row.input_ids))[1:], 0.0)]
    return torch.tensor(shifted)[predicting]
