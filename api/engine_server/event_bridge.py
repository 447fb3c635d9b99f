"""From the engine's threads to the event loop: wakes waiting coroutines at little cost to the decode threads."""

import asyncio
import threading
from queue import SimpleQueue

from tasks.inference.listener import STARTED


class EventBridge:
    """Sets asyncio events of the loop it was made on, from any thread, by a thread of its own.

    Waking a loop is a system call, around which Python releases the GIL: the decode thread would begin its next step
    only after the loop had handled this one. Putting an event into a queue keeps the GIL; the bridge's thread runs
    when the decode thread computes without it, and wakes the loop once for all events queued by then.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pending: SimpleQueue[asyncio.Event | None] = SimpleQueue()
        threading.Thread(target=self._serve, name="event-bridge", daemon=True).start()

    def notify(self, event: asyncio.Event) -> None:
        """Have `event` set on the loop; callable from any thread, returns at once."""
        self._pending.put(event)

    def close(self) -> None:
        """End the thread."""
        self._pending.put(None)

    def _serve(self) -> None:
        while (event := self._pending.get()) is not None:
            events = [event]
            while not self._pending.empty():
                if (another := self._pending.get()) is None:
                    return
                events.append(another)
            try:
                self._loop.call_soon_threadsafe(_set, events)
            except RuntimeError:  # the loop is closed
                return


class Progress:
    """Listens to one generation (`tasks.inference.listener.Listener`) and lets a coroutine wait until there is more.

    `every_token`: wake for every token, not only at the start and the end.
    """

    def __init__(self, bridge: EventBridge, *, every_token: bool) -> None:
        self._bridge = bridge
        self._every_token = every_token
        self._event = asyncio.Event()
        self._notified = False

    def __call__(self, token_id: int | None) -> None:
        """Receive the start, a token or the end; called on the engine's thread."""
        if self._notified or not (self._every_token or token_id is None or token_id == STARTED):
            return
        self._notified = True
        self._bridge.notify(self._event)

    async def wait(self) -> None:
        """Return when something has happened since the last call."""
        await self._event.wait()
        self._event.clear()
        self._notified = False  # before the caller reads: what happens from now on notifies again


def _set(events: list[asyncio.Event]) -> None:
    for event in events:
        event.set()
