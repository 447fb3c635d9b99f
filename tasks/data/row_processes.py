"""Looks at the rows of a large file in processes of their own, as most of it is done in Python, one thread at a time.

They are forked, so that they share the tokenizer's memory, and before any thread is started. They take rows as they
stand in the file and give back what is stored and counted; the process that started them only reads and writes.
"""

import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from tasks.data.row_batches import RowBatch, RowReader
from tasks.data.source import RawSource
from tasks.data.tokenizing import batched_by_size

LARGE_BYTES = 4 * 2**20
"""Of smaller files the rows are read sooner than processes are started."""
_WAITING_EACH = 2
"""Batches that a process may have to do, or has done: what is read ahead stays in memory."""
_PR_SET_PDEATHSIG = 1

_Answer = tuple[RowBatch, str]
_reads: tuple[RowReader, RawSource] | None = None
"""In a process that was forked, what it reads with."""


def batches_by_processes(source: RawSource, reader: RowReader, processes: int) -> Generator[RowBatch, None, None]:
    """Yield all rows of a source of lines, in order.

    Raises what goes wrong in a process, and BrokenProcessPool if one dies.
    """
    waiting = deque[Future[_Answer]]()
    with (
        ProcessPoolExecutor(processes, get_context("fork"), _begin, (reader, source, os.getpid())) as pool,
        _one_thread_each(),
    ):
        try:
            for raw in batched_by_size(source.raw_rows(), _size):
                waiting.append(pool.submit(_look, raw))
                if len(waiting) > _WAITING_EACH * processes:
                    yield _answered(waiting.popleft(), source)
            while waiting:
                yield _answered(waiting.popleft(), source)
        finally:
            pool.shutdown(cancel_futures=True)


def _size(raw: Any) -> int:
    _, line = raw
    return len(line or b"")


def _answered(answer: Future[_Answer], source: RawSource) -> RowBatch:
    batch, layout = answer.result()
    if layout:
        source.layout = layout
    return batch


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Have the tokenizer use one thread in processes that are started within: there is one for each core."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _begin(reader: RowReader, source: RawSource, parent: int) -> None:
    global _reads  # noqa: PLW0603 - a process is given it once, before its work
    _reads = reader, source
    # Whatever becomes of the parent, this process ends with it.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _look(raw: list[Any]) -> _Answer:
    assert _reads is not None
    reader, source = _reads
    return reader.batch(map(source.example_of, raw)), source.layout
