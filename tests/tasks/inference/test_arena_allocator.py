"""The arena's allocator: first fit, adjacent free ranges merge, ranges grow, nothing overlaps or is lost."""

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


def free_ranges(taken, without):
    """The lengths of what is free in an arena of 500 tokens if one range were."""
    edges = sorted((start, start + length) for start, length in taken.items() if start != without)
    return [begin - end for (_, end), (begin, _) in pairwise([(0, 0), *edges, (500, 500)])]


def test_a_range_grows_in_place_if_it_can_and_moves_if_it_must():
    allocator = ArenaAllocator(100)
    assert [allocator.reserve(length) for length in (20, 20, 10)] == [0, 20, 40]
    assert allocator.extend(40, 30) == 40
    assert allocator.extend(20, 25) == 70
    assert allocator.extend(0, 40) == 0  # into what the second has left
    assert allocator.extend(70, 31) is None
    assert (allocator.length(70), allocator.used) == (25, 95)
    allocator.release(40)
    allocator.release(0)
    assert allocator.extend(70, 90) == 0  # over its own place
    allocator.release(0)
    assert (allocator.used, allocator.reserve(100)) == (0, 0)


def test_random_use_neither_overlaps_nor_loses_room():
    dice = random.Random(1)
    allocator = ArenaAllocator(500)
    taken: dict[int, int] = {}
    for _ in range(5000):
        drawn = dice.random()
        if taken and drawn < 0.35:
            start = dice.choice(list(taken))
            del taken[start]
            allocator.release(start)
        elif taken and drawn < 0.65:
            start = dice.choice(list(taken))
            longer = taken[start] + dice.randint(1, 60)
            before = free_ranges(taken, without=start)
            if (moved := allocator.extend(start, longer)) is not None:
                del taken[start]
                taken[moved] = longer
            else:
                assert max(before) < longer
        else:
            length = dice.randint(1, 120)
            if (start := allocator.reserve(length)) is not None:
                taken[start] = length
        edges = sorted((start, start + length) for start, length in taken.items())
        assert all(end <= begin for (_, end), (begin, _) in pairwise(edges))
        assert allocator.used == sum(taken.values())
        assert all(allocator.length(start) == length for start, length in taken.items())
        assert not edges or edges[-1][1] <= 500
    for start in taken:
        allocator.release(start)
    assert (allocator.used, allocator.reserve(500)) == (0, 0)
