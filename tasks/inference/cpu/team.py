"""Threads that compute one step together: tasks drawn from a shared counter, barriers that spin."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.inference.cpu.intrinsics import fetch_add, give_way, load_shared, store_shared
from tasks.inference.cpu.kernel import kernel

Cells = npt.NDArray[np.int64]

# Each on a cache line of its own.
_NEXT_TASK, _ARRIVED, _PASSED, _CELLS = 0, 16, 32, 48
_SPINS = 4000
"""Spins (some 10 us) before a waiting thread offers its core to others: on a busy machine they need it more."""


def new_cells() -> Cells:
    """The counters that a team shares."""
    return np.zeros(_CELLS, dtype=np.int64)


@kernel
def next_task(cells: Cells) -> int:
    """The number of a task that no other thread has; counts from 0 after every barrier."""
    number: int = fetch_add(cells, _NEXT_TASK, 1)
    return number


@kernel
def barrier(cells: Cells, threads: int) -> None:
    """Wait until every thread is here; what any wrote before, all see after."""
    passed = load_shared(cells, _PASSED)
    if fetch_add(cells, _ARRIVED, 1) == threads - 1:
        store_shared(cells, _ARRIVED, 0)
        store_shared(cells, _NEXT_TASK, 0)
        store_shared(cells, _PASSED, passed + 1)
        return
    spins = 0
    while load_shared(cells, _PASSED) == passed:
        spins += 1
        if spins > _SPINS:
            give_way()


class Team:
    """`size` threads, the caller's among them, that run one compiled function side by side."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.cells = new_cells()
        self._work: list[SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None]] = []
        for number in range(1, size):
            queue: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = SimpleQueue()
            threading.Thread(target=_serve, args=(queue, number), name=f"step-{number}", daemon=True).start()
            self._work.append(queue)

    def run(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call `function(thread number, *arguments)` on every thread; it must end with a barrier."""
        for queue in self._work:
            queue.put((function, arguments))
        function(0, *arguments)

    def close(self) -> None:
        """Let the threads end."""
        for queue in self._work:
            queue.put(None)


def _serve(queue: "SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None]", number: int) -> None:
    while (work := queue.get()) is not None:
        function, arguments = work
        function(number, *arguments)
