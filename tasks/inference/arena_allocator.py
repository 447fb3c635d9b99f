"""Allocates ranges of the KV arena: every running sequence owns one contiguous range of tokens, which may grow."""

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

    def length(self, start: int) -> int:
        """Return the tokens of the range that begins at `start`."""
        return self._taken[start]

    def reserve(self, tokens: int) -> int | None:
        """Allocate a range of `tokens`; return its start, or None while no free range is that long."""
        for index, (_, length) in enumerate(self._free):
            if length >= tokens:
                return self._take(index, tokens)
        return None

    def extend(self, start: int, tokens: int) -> int | None:
        """Lengthen the range at `start` to `tokens`, in place or elsewhere; return where it begins now, or None.

        Elsewhere may overlap the place where it was. On None it is as it was.
        """
        length = self._taken[start]
        self.release(start)
        # The range lies in this free one now: the last that does not begin behind it.
        index = max(index for index, (begin, _) in enumerate(self._free) if begin <= start)
        begin, free = self._free[index]
        if start + tokens <= begin + free:
            return self._take(index, tokens, start - begin)
        moved = self.reserve(tokens)
        if moved is None:
            self._take(index, length, start - begin)
        return moved

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

    def _take(self, index: int, tokens: int, skipped: int = 0) -> int:
        """Take `tokens` of a free range, behind its first `skipped`; return where they begin."""
        begin, length = self._free[index]
        start = begin + skipped
        left = [(begin, skipped), (start + tokens, length - skipped - tokens)]
        self._free[index : index + 1] = [each for each in left if each[1]]
        self._taken[start] = tokens
        return start
