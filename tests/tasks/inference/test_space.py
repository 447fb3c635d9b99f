"""Ranges of the arena: first fit, neighbours merge, nothing overlaps or is lost."""

import random
from itertools import pairwise

from tasks.inference.space import ArenaSpace


def test_the_lowest_range_that_fits_is_taken_and_neighbours_merge():
    space = ArenaSpace(100)
    assert [space.reserve(30), space.reserve(30), space.reserve(30)] == [0, 30, 60]
    assert space.reserve(11) is None
    space.release(0)
    assert space.reserve(31) is None
    assert space.reserve(20) == 0
    space.release(30)
    assert space.reserve(40) == 20  # the ten left of the first range and the thirty of the second
    for start in (0, 20, 60):
        space.release(start)
    assert space.reserve(100) == 0


def test_random_use_neither_overlaps_nor_loses_room():
    dice = random.Random(1)
    space = ArenaSpace(500)
    taken: dict[int, int] = {}
    for _ in range(3000):
        if taken and dice.random() < 0.5:
            start = dice.choice(list(taken))
            del taken[start]
            space.release(start)
        else:
            length = dice.randint(1, 120)
            if (start := space.reserve(length)) is not None:
                taken[start] = length
        edges = sorted((start, start + length) for start, length in taken.items())
        assert all(end <= begin for (_, end), (begin, _) in pairwise(edges))
        assert space.used == sum(taken.values())
        assert not edges or edges[-1][1] <= 500
    for start in taken:
        space.release(start)
    assert (space.used, space.reserve(500)) == (0, 0)
