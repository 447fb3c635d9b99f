"""Work that a loop's passes begin and do not wait for: one task a key, whose errors the next pass raises."""

import asyncio
from collections.abc import Coroutine
from typing import Generic, TypeVar

Key = TypeVar("Key", int, str)


class Background(Generic[Key]):
    """The tasks that run, by what they work on."""

    def __init__(self) -> None:
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    @property
    def keys(self) -> set[Key]:
        """What is worked on; also what has ended and has not been collected yet."""
        return set(self._tasks)

    def start(self, key: Key, work: Coroutine[None, None, None]) -> None:
        """Begin to work on something that nothing works on."""
        self._tasks[key] = asyncio.create_task(work)

    def collect(self) -> list[Exception]:
        """Let go of what has ended, and return the errors that it ended with."""
        ended = [self._tasks.pop(key) for key in self.keys if self._tasks[key].done()]
        found = [task.exception() for task in ended if not task.cancelled()]
        return [error for error in found if isinstance(error, Exception)]

    async def close(self) -> None:
        """Cancel what runs, and wait for its end."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


def raise_all(errors: list[Exception], what: str) -> None:
    """Raise the errors together, if there are any; `what` names what each of them is about."""
    if errors:
        raise ExceptionGroup(f"{len(errors)} {what}: {errors[0]}", errors)
