"""Which weights are in memory: one budget for all bases and adapters, the least recently used idle ones go first."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar


@dataclass(frozen=True)
class Evictable:
    """Weights that nobody decodes with: when they were last used, their bytes, and how to let go of them."""

    last_used: float
    bytes: int
    evict: Callable[[], None]


class Holder(Protocol):
    """Something that keeps weights in memory: the decode thread of one base."""

    short_of_room_since: float | None
    """When it was first told that there is no room for what it needs; None if it needs nothing."""

    @property
    def held_bytes(self) -> int:
        """Bytes held or reserved."""
        ...

    def evictable(self, requester: "Holder") -> list[Evictable]:
        """Return what may be let go to make room for `requester`."""
        ...


HolderT = TypeVar("HolderT", bound=Holder)


class Residency(Generic[HolderT]):
    """The memory budget and its holders. `changed` is the engine's one lock: hold it around every call."""

    def __init__(self, budget_bytes: int, patience_seconds: float) -> None:
        """`patience_seconds`: how long one waits for memory before `must_yield` holds for the others."""
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
        """Tell whether another holder has waited too long, and longer than this one, for memory.

        Memory is let go of when nothing runs: a steady stream of requests to one base would keep all others out.
        """
        limit = time.monotonic() - self.patience_seconds
        return any(
            other is not holder
            and (since := other.short_of_room_since) is not None
            and since < limit
            and (holder.short_of_room_since is None or since < holder.short_of_room_since)
            for other in self.holders.values()
        )

    def make_room(self, needed: int, requester: Holder) -> bool:
        """Evict the least recently used idle weights until `needed` bytes fit; tell whether they do.

        Nothing is evicted unless that makes enough room. `changed` is notified by whoever lets go of weights later.
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
