"""The interface of a network: the batch of one step, the KV arena, and the methods that a network implements."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tasks.inference.network.shape import Shape


@dataclass(frozen=True)
class StepBatch:
    """`N` tokens of `S` sequences, in CPU tensors: prompt chunks and single decoded tokens in one batch.

    Sequences with the same adapter should be adjacent: their products are then computed without a copy.
    """

    token_ids: Tensor
    """int64 `[N]`: tokens to read, sequence after sequence."""
    positions: Tensor
    """int64 `[N]`: position of each in its sequence."""
    first: Tensor
    """int32 `[S+1]`: sequence `s` owns tokens `first[s]:first[s+1]`."""
    cache_start: Tensor
    """int64 `[S]`: place in the arena of the sequence's position 0."""
    cached: Tensor
    """int32 `[S]`: how many of its tokens the arena holds before this step."""
    adapter: Tensor
    """int32 `[S]`: the number that `load_adapter` gave, -1 for none."""
    wants_logits: Tensor
    """bool `[N]`: whether the logits after each token are needed."""


@dataclass(frozen=True)
class KVArena:
    """Keys and values of all sequences, `[layers, kv_heads, capacity, head_dim]`; each owns one contiguous range."""

    keys: Tensor
    values: Tensor

    @classmethod
    def allocate(cls, shape: Shape, capacity: int, dtype: torch.dtype, device: torch.device) -> "KVArena":
        """Return an arena for `capacity` tokens; on the CPU its pages are taken from the system when first written."""
        size = (shape.layers, shape.kv_heads, capacity, shape.head_dim)
        return cls(torch.zeros(size, dtype=dtype, device=device), torch.zeros(size, dtype=dtype, device=device))


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter in memory: its number in a step (never used twice) and its bytes."""

    number: int
    bytes: int


class Network(Protocol):
    """A base model with its adapters. Not thread-safe: one thread computes with it."""

    bytes: int
    """Bytes of the base's weights."""

    def allocate(self, capacity: int) -> KVArena:
        """Return an arena for `capacity` tokens on the network's device."""
        ...

    def step(self, batch: StepBatch, arena: KVArena) -> Tensor:
        """Read the tokens into the arena; return float32 `[number of wants_logits, vocabulary]` on the device."""
        ...

    def sum_states(self, batch: StepBatch, arena: KVArena) -> Tensor:
        """Read the tokens into the arena; return float32 `[S, width]` on the device.

        A row is the sum, over the tokens that its sequence reads in this step, of the hidden states after the last
        norm. `wants_logits` means nothing here: there is no product with the vocabulary.
        """
        ...

    def release(self, cache_start: int) -> None:
        """Free what is kept for the finished sequence that begins at this place of the arena."""
        ...

    def close(self) -> None:
        """Release threads and the like; the network is not used afterwards."""
        ...

    def load_adapter(self, folder: Path) -> LoadedAdapter:
        """Load the adapter in `folder`; raises `WeightsError` if it can't be served."""
        ...

    def drop_adapter(self, number: int) -> None:
        """Free an adapter that no sequence uses any more."""
        ...
