"""One base model in memory: its network, the arena of its sequences, and the adapters loaded with it."""

from dataclasses import dataclass
from pathlib import Path

import torch

from tasks.inference.arena_allocator import ArenaAllocator
from tasks.inference.network.load import load_network


@dataclass
class AttachedAdapter:
    """An adapter in memory: its number in the network, its bytes, when it was last decoded with."""

    number: int
    bytes: int
    last_used: float


@dataclass(frozen=True)
class BasePlan:
    """What a base takes, known before it is loaded: bytes of its weights and arena, and the arena's tokens."""

    vocabulary: int
    weight_bytes: int
    cache_bytes: int
    cache_tokens: int


class LoadedBase:
    """A base model shared by all its adapters. Not thread-safe: only its decode thread uses it."""

    def __init__(
        self, folder: Path, plan: BasePlan, dtype: torch.dtype, device: torch.device, *, int8: bool = False
    ) -> None:
        """Load the model in `folder`; raises `WeightsError` if that fails."""
        self.network = load_network(folder, dtype, device, int8=int8)
        self.arena = self.network.allocate(plan.cache_tokens)
        self.allocator = ArenaAllocator(plan.cache_tokens)
        self.bytes = self.network.bytes + plan.cache_bytes
        self.token_bytes = plan.cache_bytes // max(1, plan.cache_tokens)
        self.vocabulary = plan.vocabulary
        self.device = device
        self.adapters: dict[Path, AttachedAdapter] = {}

    @property
    def total_bytes(self) -> int:
        """Bytes of the base, its arena and all its adapters."""
        return self.bytes + sum(adapter.bytes for adapter in list(self.adapters.values()))

    def load_adapter(self, folder: Path) -> AttachedAdapter:
        """Load the adapter in `folder`, not yet listed in `adapters`; raises `WeightsError` if that fails."""
        loaded = self.network.load_adapter(folder)
        return AttachedAdapter(loaded.number, loaded.bytes, 0.0)

    def drop_adapter(self, folder: Path) -> None:
        """Free the memory of an adapter that no sequence uses."""
        self.network.drop_adapter(self.adapters.pop(folder).number)

    def close(self) -> None:
        """Release what the network holds beyond memory. No thread may be computing with it."""
        self.network.close()

    def release(self, start: int) -> None:
        """Free the arena range of a finished sequence, which begins at `start`."""
        self.allocator.release(start)
        self.arena.release(start)
