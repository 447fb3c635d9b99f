"""Counts answers and refusals in memory, and adds them to the database in the background.

An answer that was generated is the client's, whether or not the database can be written: it is locked by a backup,
or its disk is full. What is lost is at most what a killed process (kill -9) counted within `FLUSH_SECONDS`.
"""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from registry.database import Database
from registry.repositories.statistics import StatisticsRepository

logger = logging.getLogger(__name__)

T = TypeVar("T")
FLUSH_SECONDS = 0.5
RETRY_SECONDS = 1.0


class SharedCounters:
    """What this process has counted and the database does not know of yet; other processes add to the same rows."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pending: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._settling = threading.Lock()
        """Held from a commit until what it wrote is no longer pending: in between it would be counted twice."""
        self._counted = asyncio.Event()

    def add(self, name: str, more: int = 1) -> None:
        """Count, under a name that the table of counters has; returns at once and does not fail."""
        with self._lock:
            self._pending[name] += more
        self._counted.set()

    def with_pending(self, read: Callable[[], T]) -> tuple[T, Counter[str]]:
        """Return what `read` finds in the database, and what is to be added to it."""
        with self._settling:
            found = read()
            with self._lock:
                return found, Counter(self._pending)

    def flush(self) -> None:
        """Add what is pending to the database; raises `SQLAlchemyError`, and nothing is lost then."""
        with self._lock:
            pending = Counter(self._pending)
        if not pending:
            return
        with ExitStack() as settling:
            with self._database.transaction() as session:
                StatisticsRepository(session).count(pending)
                # From here on nobody is waited for: the transaction has its locks.
                settling.enter_context(self._settling)
            with self._lock:
                self._pending -= pending

    async def run(self) -> None:
        """Flush soon after something was counted, for as long as the process runs."""
        while True:
            await self._counted.wait()
            await asyncio.sleep(FLUSH_SECONDS)
            self._counted.clear()
            try:
                await asyncio.to_thread(self.flush)
            except Exception as error:  # noqa: BLE001 - the edge of a task that must not end: said, and tried again
                logger.warning("counts can't be written now, they are kept: %s", (str(error) or "?").splitlines()[0])
                self._counted.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def close(self) -> None:
        """Flush a last time."""
        try:
            await asyncio.to_thread(self.flush)
        except SQLAlchemyError:
            logger.exception("these counts could not be written: %s", dict(self._pending))
