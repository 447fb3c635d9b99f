"""The processes of ranks 1 and up: spawned, reporting through a pipe, and ended with rank 0."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Self

from tasks.training.errors import RankLost, TrainingError

NOTICE_SECONDS = 10.0
"""By then the cause of a broken group is known: a failed rank has reported it, a dead one's pipe is closed."""

RankWork = Callable[[int, Callable[[], None]], None]
"""A rank's work, given its number and a callback for when it is ready to join the group; it must pickle."""

# Spawned, not forked: torch's threads and CUDA do not survive a fork.
_context = multiprocessing.get_context("spawn")


class RankProcesses:
    """Runs `work` in a process for each rank from 1 to `size` - 1 while the `with` block, which is rank 0, lasts."""

    def __init__(self, size: int, work: RankWork) -> None:
        self._finished = threading.Event()
        self._reports: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        try:
            for rank in range(1, size):
                self._start(rank, work)
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="rank watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def await_ready(self) -> None:
        """Return when every rank is ready; raise as `failures_named` does."""
        for report in self._reports:
            self._receive(report)

    @contextmanager
    def failures_named(self) -> Iterator[None]:
        """Raise what broke the group in place of the RuntimeError that this gave in the block.

        That is the TrainingError of another rank, or RankLost if one ended without a report.
        """
        try:
            yield
        except RuntimeError:
            for report in wait(self._reports, timeout=NOTICE_SECONDS):
                assert isinstance(report, Connection)
                self._receive(report)
            raise

    def _start(self, rank: int, work: RankWork) -> None:
        report, end_of_rank = _context.Pipe(duplex=False)
        self._reports.append(report)
        with end_of_rank:
            process = _context.Process(target=_run_rank, args=(rank, work, end_of_rank), name=f"rank {rank}")
            process.start()
        self._processes.append(process)

    def _receive(self, report: Connection) -> None:
        """Receive a rank's report that it is ready, or raise its failure."""
        number = self._reports.index(report)
        try:
            failure: TrainingError | None = report.recv()
        except (EOFError, ConnectionResetError):
            process = self._processes[number]
            process.join()
            raise RankLost(
                f"the process of rank {number + 1} ended before the run, with code {process.exitcode}"
            ) from None
        if failure is not None:
            raise failure

    def _watch(self) -> None:
        """Kill this process if it does not notice within `NOTICE_SECONDS` that a rank has ended.

        Not every collective operation fails when a rank is gone: on GPUs it may hang.
        """
        wait([process.sentinel for process in self._processes])
        if not self._finished.wait(NOTICE_SECONDS):
            os.kill(os.getpid(), signal.SIGKILL)

    def _end(self) -> None:
        """Kill the remaining ranks: they hold no state that rank 0 lacks."""
        self._finished.set()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for report in self._reports:
            report.close()


def _run_rank(rank: int, work: RankWork, report: Connection) -> None:
    # Signals to the process group are handled by rank 0 only, which may have to finish the current step with all.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, signal.SIG_IGN)
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    try:
        work(rank, lambda: report.send(None))
    except TrainingError as error:
        report.send(error)
    else:
        _end_with_rank_0()  # not before: a rank that has ended is one that was lost


def _end_with_rank_0() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
