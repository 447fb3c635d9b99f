"""The queue of one base's waiting requests, fair among its models: many requests to one do not delay the others."""

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from tasks.inference.request import Request


class FairQueue:
    """A FIFO queue per model; `next` serves the model with the fewest running requests. Not thread-safe."""

    def __init__(self) -> None:
        self._waiting: list[Request] = []
        self._chosen: Request | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._waiting))

    def append(self, request: Request) -> None:
        """Add a request at the end."""
        self._waiting.append(request)

    def next(self, running: Collection[Path | None]) -> Request | None:
        """Return the next request, None if the queue is empty; `running` holds the adapter of every running request.

        The same request is returned until it is removed: one that needs much of the arena would starve otherwise.
        """
        if self._chosen is None and self._waiting:
            busy = Counter(running)
            self._chosen = min(self._waiting, key=lambda request: busy[request.model.adapter])
        return self._chosen

    def remove(self, request: Request) -> None:
        """Remove a request that runs now or has ended."""
        self._waiting.remove(request)
        if request is self._chosen:
            self._chosen = None

    def clear(self) -> None:
        """Remove all requests."""
        self._waiting.clear()
        self._chosen = None
