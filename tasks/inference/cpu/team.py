"""A thread team that computes one step together: the threads claim tasks from a shared counter, phase after phase.

The state is one integer, `ticket`: the step, its phase and the phase's next task. The thread that completes the last
task of a phase opens the next one. A thread that the system schedules late joins the phase that is then open.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.inference.cpu.intrinsics import fetch_add, load_shared, store_shared, swap, yield_core
from tasks.inference.cpu.kernel import kernel

Cells = npt.NDArray[np.int64]
Work = tuple[Callable[..., None], tuple[Any, ...]]

# Each on a cache line of its own.
_TICKET, _COMPLETED, _CELLS = 0, 16, 32
_PHASE_BITS, _TASK_BITS, _STEPS = 20, 24, 2**19
_SPINS = 4000
"""Spins (some 10 us) before a waiting thread offers its core to others: on a busy machine they need it more."""


@kernel
def ticket_now(cells: Cells) -> int:
    """The current ticket: step, phase and next task."""
    ticket: int = load_shared(cells, _TICKET)
    return ticket


@kernel
def phase_of(ticket: int) -> int:
    """The phase that is open."""
    return (ticket >> _TASK_BITS) & (2**_PHASE_BITS - 1)


@kernel
def is_of(ticket: int, step: int) -> bool:
    """Whether the ticket belongs to this step."""
    return ticket >> (_TASK_BITS + _PHASE_BITS) == step


@kernel
def claim_task(cells: Cells, ticket: int, tasks: int) -> int:
    """Claim a task of the ticket's phase and return its number; -1 if none was left or another thread claimed it."""
    task = ticket & (2**_TASK_BITS - 1)
    if task < tasks:
        return task if swap(cells, _TICKET, ticket, ticket + 1) else -1
    spins = 0
    while load_shared(cells, _TICKET) >> _TASK_BITS == ticket >> _TASK_BITS:
        spins += 1
        if spins > _SPINS:
            yield_core()
    return -1


@kernel
def is_last(cells: Cells, tasks: int) -> bool:
    """Count a completed task; whether it was the last of its phase."""
    return fetch_add(cells, _COMPLETED, 1) == tasks - 1


@kernel
def open_phase(cells: Cells, step: int, phase: int) -> None:
    """Open a phase for all threads."""
    store_shared(cells, _COMPLETED, 0)
    store_shared(cells, _TICKET, (step << (_PHASE_BITS + _TASK_BITS)) | (phase << _TASK_BITS))


class Team:
    """`size` threads, the caller's among them, that run one compiled function side by side."""

    def __init__(self, size: int) -> None:
        self._cells: Cells = np.zeros(_CELLS, dtype=np.int64)
        self._step = 0
        self._queues: list[SimpleQueue[Work | None]] = []
        for number in range(1, size):
            queue: SimpleQueue[Work | None] = SimpleQueue()
            threading.Thread(target=_serve, args=(queue, number), name=f"step-{number}", daemon=True).start()
            self._queues.append(queue)

    def run(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call `function(thread number, step, cells, *arguments)` on every thread, until this step's work is done."""
        self._step = (self._step + 1) % _STEPS
        self._cells[_COMPLETED] = 0
        self._cells[_TICKET] = self._step << (_PHASE_BITS + _TASK_BITS)
        arguments = (self._step, self._cells, *arguments)
        for queue in self._queues:
            queue.put((function, arguments))
        function(0, *arguments)

    def close(self) -> None:
        """End the threads."""
        for queue in self._queues:
            queue.put(None)


def _serve(queue: "SimpleQueue[Work | None]", number: int) -> None:
    while (work := queue.get()) is not None:
        if queue.empty():  # otherwise the others have finished this step without us
            function, arguments = work
            function(number, *arguments)
