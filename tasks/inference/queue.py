"""The line of one base's waiting requests: its models take turns, so that a crowd at one doesn't hold up the others."""

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from tasks.inference.request import Handle


class FairLine:
    """Requests in order of arrival; the next is the first of the model that has the fewest running. Not thread-safe."""

    def __init__(self) -> None:
        self._waiting: list[Handle] = []
        self._chosen: Handle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Handle]:
        return iter(list(self._waiting))

    def append(self, handle: Handle) -> None:
        """Put a request at the end."""
        self._waiting.append(handle)

    def next(self, running: Collection[Path | None]) -> Handle | None:
        """Return whose turn it is, None if nobody waits; `running` names the model of every running request.

        It stays that request's turn until it is removed: one that needs much room would else never find it.
        """
        if self._chosen is None and self._waiting:
            busy = Counter(running)
            self._chosen = min(self._waiting, key=lambda handle: busy[handle.model.adapter])
        return self._chosen

    def remove(self, handle: Handle) -> None:
        """Take a request out: it runs, or is over."""
        self._waiting.remove(handle)
        if handle is self._chosen:
            self._chosen = None

    def clear(self) -> None:
        """Take all out."""
        self._waiting.clear()
        self._chosen = None
