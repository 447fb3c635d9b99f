"""So many at a time, so many waiting, and a refusal for more; the engine's sockets are bounded by it."""

import asyncio

import pytest

from api.errors import Busy
from api.places import Places, Shares


def test_so_many_at_a_time():
    async def work():
        places, now, most = Places(3, 100, 10, "answers"), 0, 0

        async def one():
            nonlocal now, most
            with places.admission(1):
                async with places.one():
                    now += 1
                    most = max(most, now)
                    await asyncio.sleep(0.001)
                    now -= 1

        await asyncio.gather(*(one() for _ in range(50)))
        assert most == 3
        assert places.admitted == 0

    asyncio.run(work())


def test_a_full_queue_refuses_and_says_how_many():
    places = Places(2, 3, 10, "answers")
    with places.admission(4):
        with pytest.raises(Busy, match=r"4 answers run or wait already, and at most 5 may"), places.admission(2):
            pass
        with places.admission(1):
            assert places.admitted == 5
    assert places.admitted == 0


def test_nobody_waits_for_ever():
    async def work():
        places = Places(1, 3, 0.05, "answers")
        async with places.one():
            with pytest.raises(Busy, match=r"within 0\.05 s"):
                async with places.one():
                    pass
        async with places.one():
            pass

    asyncio.run(work())


def test_each_key_has_a_share_of_its_own():
    shares = Shares(3)
    with shares.admission(2, "mine"):
        refused = pytest.raises(Busy, match=r"The key 'mine' has 2 answers that run or wait, and at most 3 may")
        with refused, shares.admission(2, "mine"):
            pass
        with shares.admission(1, "mine"), shares.admission(3, "another"), shares.admission(99, None):
            pass
    with shares.admission(3, "mine"):
        pass
    with Shares(None).admission(10**6, "mine"):
        pass
