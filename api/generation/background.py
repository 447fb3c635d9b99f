"""Work that goes on without the request that asked for it, in this process."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class BackgroundWork:
    """Tasks that nobody waits for; they end with the process, in order if it is stopped in order."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin work; it must handle its own failures."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel all that still goes on, and wait until it has ended."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
