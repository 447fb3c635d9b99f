"""Allocates ranges of the KV arena: every sequence owns one contiguous range of tokens while it runs."""

from bisect import insort


class ArenaAllocator:
    """First-fit allocator over an arena of `capacity` tokens."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = [(0, capacity)]  # (start, length), ascending, never adjacent
        self._taken: dict[int, int] = {}

    @property
    def used(self) -> int:
        """Tokens in ranges that are taken."""
        return sum(self._taken.values())

    def reserve(self, tokens: int) -> int | None:
        """Allocate a range of `tokens`; return its start, or None while no free range is that long."""
        for index, (start, length) in enumerate(self._free):
            if length >= tokens:
                self._free[index : index + 1] = [(start + tokens, length - tokens)] if length > tokens else []
                self._taken[start] = tokens
                return start
        return None

    def release(self, start: int) -> None:
        """Free the range that begins at `start`; adjacent free ranges are merged."""
        insort(self._free, (start, self._taken.pop(start)))
        merged: list[tuple[int, int]] = []
        for begin, length in self._free:
            if merged and sum(merged[-1]) == begin:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((begin, length))
        self._free = merged
