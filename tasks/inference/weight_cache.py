"""An LRU cache of weights in memory: one budget for all bases and adapters; idle ones are evicted first."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar


@dataclass(frozen=True)
class Evictable:
    """Idle weights: when they were last used (`time.monotonic`), their bytes, and the function that frees them."""

    last_used: float
    bytes: int
    evict: Callable[[], None]


class Holder(Protocol):
    """An owner of weights in memory: the decode thread of one base."""

    waiting_for_memory_since: float | None
    """Since when it has been waiting for memory (`time.monotonic`); None if it is not."""

    @property
    def held_bytes(self) -> int:
        """Bytes held or reserved."""
        ...

    def evictable(self, requester: "Holder") -> list[Evictable]:
        """Return the weights that may be evicted for `requester`."""
        ...


HolderT = TypeVar("HolderT", bound=Holder)


class WeightCache(Generic[HolderT]):
    """The memory budget and the owners of weights. `changed` is the engine's one lock: hold it around every call."""

    def __init__(self, budget_bytes: int, patience_seconds: float) -> None:
        """`patience_seconds`: how long an owner waits for memory before `must_yield` stops the others."""
        self.budget_bytes = budget_bytes
        self.patience_seconds = patience_seconds
        self.changed = threading.Condition()
        self.holders: dict[Path, HolderT] = {}
        self.closing = False

    @property
    def held_bytes(self) -> int:
        """Bytes held or reserved by all."""
        return sum(holder.held_bytes for holder in self.holders.values())

    def must_yield(self, holder: Holder) -> bool:
        """Return whether another holder has waited too long, and longer than this one, for memory.

        A base is evicted only when it is idle: a steady stream of requests to it would starve all other bases.
        """
        limit = time.monotonic() - self.patience_seconds
        return any(
            other is not holder
            and (since := other.waiting_for_memory_since) is not None
            and since < limit
            and (holder.waiting_for_memory_since is None or since < holder.waiting_for_memory_since)
            for other in self.holders.values()
        )

    def make_room(self, needed: int, requester: Holder) -> bool:
        """Evict the least recently used idle weights until `needed` bytes fit; return whether they do.

        Nothing is evicted unless that frees enough. Whoever frees weights later notifies `changed`.
        """
        missing = self.held_bytes + needed - self.budget_bytes
        idle = [weights for holder in self.holders.values() for weights in holder.evictable(requester)]
        if missing > sum(weights.bytes for weights in idle):
            return False
        for weights in sorted(idle, key=lambda each: each.last_used):
            if missing <= 0:
                break
            weights.evict()
            missing -= weights.bytes
        return True
