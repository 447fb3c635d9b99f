"""The arena's allocator: first fit, adjacent free ranges merge, nothing overlaps or is lost."""

import random
from itertools import pairwise

from tasks.inference.arena_allocator import ArenaAllocator


def test_the_lowest_range_that_fits_is_taken_and_adjacent_ranges_merge():
    allocator = ArenaAllocator(100)
    assert [allocator.reserve(30), allocator.reserve(30), allocator.reserve(30)] == [0, 30, 60]
    assert allocator.reserve(11) is None
    allocator.release(0)
    assert allocator.reserve(31) is None
    assert allocator.reserve(20) == 0
    allocator.release(30)
    assert allocator.reserve(40) == 20  # the ten left of the first range and the thirty of the second
    for start in (0, 20, 60):
        allocator.release(start)
    assert allocator.reserve(100) == 0


def test_random_use_neither_overlaps_nor_loses_room():
    dice = random.Random(1)
    allocator = ArenaAllocator(500)
    taken: dict[int, int] = {}
    for _ in range(3000):
        if taken and dice.random() < 0.5:
            start = dice.choice(list(taken))
            del taken[start]
            allocator.release(start)
        else:
            length = dice.randint(1, 120)
            if (start := allocator.reserve(length)) is not None:
                taken[start] = length
        edges = sorted((start, start + length) for start, length in taken.items())
        assert all(end <= begin for (_, end), (begin, _) in pairwise(edges))
        assert allocator.used == sum(taken.values())
        assert not edges or edges[-1][1] <= 500
    for start in taken:
        allocator.release(start)
    assert (allocator.used, allocator.reserve(500)) == (0, 0)
