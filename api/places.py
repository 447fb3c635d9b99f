"""How many answers are asked for at once, and how many more may wait; one beyond is refused before it costs a thing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from api.errors import Busy


class Places:
    """Places of a server that takes so many requests at a time, and a queue before them. Of one event loop."""

    def __init__(self, places: int, queue_length: int, wait_seconds: float, what: str) -> None:
        """`what` is asked for, as a plural; whoever waits for longer than `wait_seconds` is refused as well."""
        self._free = asyncio.Semaphore(places)
        self._most = places + queue_length
        self._wait_seconds = wait_seconds
        self._what = what
        self.admitted = 0
        """How many have a place or wait for one."""

    @contextmanager
    def admission(self, count: int) -> Iterator[None]:
        """Let `count` of one request wait within the block, or raise `Busy` if that would be too many."""
        if self.admitted + count > self._most:
            raise Busy(f"{self.admitted} {self._what} run or wait already, and at most {self._most} may; try again.")
        self.admitted += count
        try:
            yield
        finally:
            self.admitted -= count

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Hold one place within the block; raises `Busy` if none becomes free in time."""
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._free.acquire()
        except TimeoutError as error:
            message = f"No place became free for one of the {self._what} within {self._wait_seconds:g} s; try again."
            raise Busy(message) from error
        try:
            yield
        finally:
            self._free.release()


class Shares:
    """How many of a server's answers each key may have asked for at a time; nobody else waits for more."""

    def __init__(self, most: int | None) -> None:
        """`most` None: as many as there are places."""
        self.most = most
        self._taken: Counter[str] = Counter()

    @contextmanager
    def admission(self, count: int, key: str | None) -> Iterator[None]:
        """Let a request of this key (None: no keys are used) have `count` of its share, or raise `Busy`."""
        if self.most is None or key is None:
            yield
            return
        if self._taken[key] + count > self.most:
            raise Busy(
                f"The key '{key}' has {self._taken[key]} answers that run or wait, and at most {self.most} may "
                "(LLM_PLATFORM_GENERATION_ANSWERS_PER_KEY); try again when one has ended."
            )
        self._taken[key] += count
        try:
            yield
        finally:
            self._taken[key] -= count
            if not self._taken[key]:
                del self._taken[key]
