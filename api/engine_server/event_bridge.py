"""From the engine's threads to the event loop: who has news is woken, at little cost to those who compute."""

import asyncio
import threading
from queue import SimpleQueue

from tasks.inference.listening import STARTED


class Doorbell:
    """Wakes coroutines of the event loop it was made on, by a thread of its own.

    Waking a loop is a system call, around which Python gives its lock away: the decode thread would begin its next step
    only after the loop had handled the news of this one. Putting a name into a queue keeps the lock; this thread runs
    when the decode thread computes without it, and rings once for all who have news by then.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news: SimpleQueue[asyncio.Event | None] = SimpleQueue()
        threading.Thread(target=self._serve, name="doorbell", daemon=True).start()

    def ring(self, event: asyncio.Event) -> None:
        """Have `event` set on the loop; from any thread, returns at once."""
        self._news.put(event)

    def close(self) -> None:
        """End the thread."""
        self._news.put(None)

    def _serve(self) -> None:
        while (event := self._news.get()) is not None:
            events = [event]
            while not self._news.empty():
                if (another := self._news.get()) is None:
                    return
                events.append(another)
            try:
                self._loop.call_soon_threadsafe(_set, events)
            except RuntimeError:  # the loop is closed
                return


class News:
    """Listens to one generation (`tasks.inference.listening.Listener`) and lets a coroutine wait until there is more.

    `every_token`: not only the beginning and the end are news.
    """

    def __init__(self, doorbell: Doorbell, *, every_token: bool) -> None:
        self._doorbell = doorbell
        self._every_token = every_token
        self._event = asyncio.Event()
        self._rung = False

    def __call__(self, token_id: int | None) -> None:
        """Hear of the beginning, a token or the end; called on the engine's thread."""
        if self._rung or not (self._every_token or token_id is None or token_id == STARTED):
            return
        self._rung = True
        self._doorbell.ring(self._event)

    async def wait(self) -> None:
        """Return when something has happened since the last call."""
        await self._event.wait()
        self._event.clear()
        self._rung = False  # before the caller looks: what happens from now on rings again


def _set(events: list[asyncio.Event]) -> None:
    for event in events:
        event.set()
