"""Dropout masks from sixteen random bits an element: torch's own would take a seventh of a CPU's training step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_LEVELS = 1 << 16
_MASKS_PER_WORD = 4
_INTEGERS = {2: torch.int16, 4: torch.int32}
_SEEDS = 1 << 32
_BETWEEN_LAYERS = 0x9E3779B9
"""2³² over the golden ratio: what Weyl's sequence steps by, so that no two layers of a row share a seed."""


def _dropped_levels(probability: float) -> int:
    return round(probability * _LEVELS)


def keep_probability(probability: float) -> float:
    """Return the exact probability that `keep_mask` keeps an element: within 2⁻¹⁷ of 1 - `probability`."""
    return 1 - _dropped_levels(probability) / _LEVELS


def random_seeds(rows: int) -> list[int]:
    """Return a seed for each row from torch's CPU generator: restoring its state repeats them."""
    return torch.randint(_SEEDS, (rows,)).tolist()


@dataclass(frozen=True)
class Streams:
    """The generators of one layer's masks: one for each row, or on a GPU, where calls are costly, one for all rows.

    On a CPU a row's masks depend on its seed and the layer only: not on the other rows or the number of threads.
    """

    generators: Sequence[torch.Generator]
    lengths: Sequence[int]
    """Tokens of each generator."""

    @classmethod
    def of(cls, seeds: Sequence[int], lengths: Sequence[int], layer: int, device: torch.device) -> "Streams":
        """Return the streams of rows with the given seeds and lengths in a layer."""
        if device.type != "cpu":
            seeds, lengths = [sum(seeds)], [sum(lengths)]
        at = [(seed + layer * _BETWEEN_LAYERS) % _SEEDS for seed in seeds]
        return cls([torch.Generator(device).manual_seed(seed) for seed in at], lengths)

    def shortened(self, lengths: Sequence[int]) -> "Streams":
        """Return the same streams for fewer tokens of each row."""
        return Streams(self.generators, lengths if len(self.generators) > 1 else [sum(lengths)])

    def keep_mask(self, width: int, probability: float) -> Tensor:
        """Return the next int8 mask, (tokens, width): all bits of an element set, or with `probability` none."""
        device, tokens = self.generators[0].device, sum(self.lengths)
        words = torch.empty(tokens, -(-width // _MASKS_PER_WORD), dtype=torch.int64, device=device)
        for part, generator in zip(torch.split(words, list(self.lengths)), self.generators, strict=True):
            part.random_(-(2**63), None, generator=generator)
        mask = torch.empty(tokens, width, dtype=torch.int8, device=device)
        least = _dropped_levels(probability) - _LEVELS // 2
        return torch.ge(words.view(torch.int16)[:, :width], least, out=mask).neg_()


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """Return `x` where `mask` is set and 0 elsewhere; the rest is not scaled up: `keep_probability` says how much to.

    An `and` of bits is several times as fast as a product of a float and a mask of another type.
    """
    bits = _INTEGERS[x.element_size()]
    return (x.view(bits) & mask).view(x.dtype)
