"""Which controller leads: a lease in the database that the leader renews, and that another takes when it does not."""

import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from uuid import uuid4

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.database import Database
from registry.repositories.controller import ControllerRepository
from registry.tables import ControllerLease

logger = logging.getLogger(__name__)

Transaction = Callable[[], AbstractContextManager[Session]]

RENEW_SECONDS = 3.0
LEASE_SECONDS = 12.0
"""A leader that has not been seen renewing for so long has none any more."""
STEP_DOWN_SECONDS = 9.0
"""A leader that could not renew for so long stops by itself, before another one may begin."""


class Leadership:
    """This process's candidacy. No two clocks are compared: each process measures by its own monotonic one.

    A leader that was stopped for a while, and goes on when another one leads, finds its term over.
    """

    def __init__(self, database: Database, transaction: Transaction | None = None) -> None:
        """`transaction` is how the lease is written, if not by the database's own."""
        self._database = database
        self._transaction = transaction or database.transaction
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._term: int | None = None
        self._renewed = float("-inf")
        self._seen: tuple[int, int] | None = None
        self._seen_since = float("-inf")

    @property
    def leads(self) -> bool:
        """Whether this process may run the loops at this moment."""
        return self._term is not None and time.monotonic() - self._renewed < STEP_DOWN_SECONDS

    def keep_or_take(self) -> bool:
        """Renew the lease, or take it if its holder is gone; return whether this process leads.

        Raises `SQLAlchemyError` when the database does not answer.
        """
        begun = time.monotonic()
        if self._term is not None:
            with self._transaction() as session:
                renewed = ControllerRepository(session).renew(self._term)
            if renewed:
                self._renewed = begun
                return True
            logger.warning("another controller leads now; this one waits")
            self._term = None
        with self._database.reading() as session:
            lease = ControllerRepository(session).lease()
        if not self._is_free(lease):
            return False
        try:
            with self._transaction() as session:
                self._term = ControllerRepository(session).take(self.holder, lease)
        except IntegrityError:
            return False  # another one was quicker
        if self._term is not None:
            self._renewed = begun
            logger.info("this controller leads (term %d)", self._term)
        return self._term is not None

    def release(self) -> None:
        """Leave the lead, if this process has it."""
        if self._term is not None:
            with self._transaction() as session:
                ControllerRepository(session).release(self._term)
            self._term = None

    def _is_free(self, lease: ControllerLease | None) -> bool:
        if lease is None or lease.released or _has_ended_here(lease.holder):
            return True
        seen = (lease.term, lease.renewals)
        if seen != self._seen:
            self._seen, self._seen_since = seen, time.monotonic()
        return time.monotonic() - self._seen_since >= LEASE_SECONDS


def _has_ended_here(holder: str) -> bool:
    """Return whether the holder was a process of this machine that is no longer there: nobody need wait for it."""
    host, pid, _ = holder.rsplit(":", 2)
    # A container has its own process ids, and its own host name with them.
    return host == socket.gethostname() and pid.isdigit() and not _exists(int(pid))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
