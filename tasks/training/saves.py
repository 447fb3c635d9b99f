"""When a run's checkpoints are made, and where: by a thread beside the next steps, or between two steps."""

import logging
import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from tasks.training.checkpoint import Progress, TrainingState, save_checkpoint
from tasks.training.observer import TrainingObserver
from tasks.training.ranks import Ranks
from tasks.training.snapshot import Snapshots

MOST_SAVING = 0.01
"""Largest share of the time that goes into checkpoints: slow ones are made less often."""
NICENESS = 5
"""Of the thread that writes: the step's threads come first where cores are few."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Written:
    step: int
    folder: Path
    cpu_seconds: float
    """What the writing took of a core; waiting for the disk takes nothing."""


class Saves:
    """Makes the checkpoints of one run: one at a time, every `interval` seconds and when asked to.

    With `background` a checkpoint is a copy of the state, taken between two steps, that a thread writes while the next
    steps run; one that is asked for sooner waits for it. Leaving the `with` block waits too, whatever the reason.
    Only rank 0 writes, and its clock counts; the others call the same methods.
    """

    def __init__(
        self, snapshots: Snapshots, observer: TrainingObserver, interval: float, ranks: Ranks, *, background: bool
    ) -> None:
        self._snapshots = snapshots
        self._observer = observer
        self._interval = interval
        self._background = background
        self._thread = ThreadPoolExecutor(1, "checkpoint", initializer=_yield_to_steps)
        self._writing: Future[_Written] | None = None
        self._stalled = 0.0
        self._has_clock = ranks.rank == 0
        self._due_at = time.monotonic() + interval

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        try:
            self.finish()
        except Exception:
            if error is None:
                raise
            _LOG.warning("The checkpoint that was being written is lost", exc_info=True)

    def is_overdue(self) -> bool:
        """Return whether the interval has passed since the last checkpoint became complete."""
        if self._writing is not None:
            return not self._interval  # every step is saved: the next one waits for the one that is being written
        return self._has_clock and time.monotonic() >= self._due_at

    def save(self, progress: Progress, *, at_once: bool) -> None:
        """Save the state that the run has now; with `at_once` the checkpoint is complete when this returns.

        Raises what keeps it, or the one before it, from being written.
        """
        self.finish()
        started = time.monotonic()
        background = self._background and not at_once
        state = self._snapshots.take(progress, copied=background)
        if state is None:
            return  # on another rank
        write = partial(_write, self._snapshots.root, state, self._observer)
        if background:
            self._writing = self._thread.submit(write)
            self._stalled = time.monotonic() - started
        else:
            written = write()
            self._report(written, time.monotonic() - started)

    def report(self) -> None:
        """Tell the observer of a checkpoint that has become complete, or raise what has kept it from that."""
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait for a checkpoint that is being written, and do what `report` does."""
        if self._writing is None:
            return
        wait([self._writing])  # forgotten only when it is over: who is interrupted here waits again on the way out
        writing, self._writing = self._writing, None
        written = writing.result()
        self._report(written, self._stalled + written.cpu_seconds)

    def _report(self, written: _Written, took: float) -> None:
        self._due_at = time.monotonic() + (max(self._interval, took / MOST_SAVING) if self._interval else 0.0)
        self._observer.on_checkpoint(written.step, written.folder)


def _write(root: Path, state: TrainingState, observer: TrainingObserver) -> _Written:
    started = time.thread_time()
    step = state.progress.cursor.step
    folder = save_checkpoint(root, state, partial(observer.before_checkpoint, step))
    return _Written(step, folder, time.thread_time() - started)


def _yield_to_steps() -> None:
    # On Linux a thread has a priority of its own.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
