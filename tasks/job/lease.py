"""This process's hold on a job or an evaluation: renewed beside the work, and proven in every write.

docs/decisions/0024-leases.md says what it is for, and what it can't keep from happening.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from registry.attempts import LEASE_SECONDS, machine, oom_kills, process_started
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.flow_backed import FlowBackedRepository, LeaseLost, Outcome, Record, Worker

RENEW_SECONDS = 5.0
RETRY_SECONDS = 1.0
LEAVE_SECONDS = 10.0
"""How long a process may take to leave by itself once its lease is lost; then it is ended, whatever it does."""

_logger = logging.getLogger(__name__)


def this_process() -> Worker:
    """Return what tells this process from every other one."""
    pid = os.getpid()
    return Worker(socket.gethostname(), pid, machine(), process_started(pid), oom_kills())


class Lease(Generic[Record]):
    """An attempt at a record, begun with it; `end` is its last write."""

    def __init__(self, database: Database, repository: type[FlowBackedRepository[Record]], record_id: int) -> None:
        self._database = database
        self._repository: type[FlowBackedRepository[Record]] = repository
        self._record_id = record_id
        self._loss: LeaseLost | None = None
        self._stop = threading.Event()
        with database.transaction() as session:
            records = repository(session)
            record = records.locked(record_id)
            records.begin_attempt(record, this_process())
            self.attempt = record.attempt
        self._renewed_at = self._tried_at = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    @contextmanager
    def writing(self) -> Iterator[tuple[Session, Record]]:
        """Yield a transaction and the record, which no other attempt can take over meanwhile; renews the lease.

        Raises `LeaseLost` before anything is written.
        """
        now = time.monotonic()
        # A renewal writes the row: what is written several times a second need not do it each time.
        due = now - self._renewed_at >= RENEW_SECONDS / 2
        try:
            with self._database.transaction() as session:
                record = self._repository(session).held(self._record_id, self.attempt)
                if due:
                    record.attempt_seen_at = utcnow()
                yield session, record
        except LeaseLost as loss:
            self._loss = loss
            raise
        if due:
            self._renewed_at = now

    def check(self) -> None:
        """Raise `LeaseLost` if the lease is lost; cheap, but after a time in which it may have run out unnoticed."""
        if self._loss is not None:
            raise self._loss
        if time.monotonic() - max(self._renewed_at, self._tried_at) <= LEASE_SECONDS:
            return
        # Stopped for that long, as by SIGSTOP: another process may be at work since. Or the database is away, which
        # keeps others from taking over as well.
        try:
            self._renew()
        except SQLAlchemyError as error:
            _logger.warning("The lease can't be renewed, going on: %s", error)
            self._tried_at = time.monotonic()

    def end(self, outcome: Outcome) -> None:
        """Record how the attempt went, unless another one has taken over."""
        self._stop.set()
        if self._loss is None:
            try:
                with self.writing() as (session, record):
                    self._repository(session).end_attempt(record, outcome)
            except LeaseLost as loss:
                _logger.warning("%s", loss)
        self._thread.join()

    def _renew(self) -> None:
        now = time.monotonic()
        try:
            with self._database.transaction(now=True) as session:
                self._repository(session).held(self._record_id, self.attempt).attempt_seen_at = utcnow()
        except LeaseLost as loss:
            self._loss = loss
            raise
        self._renewed_at = now

    def _keep(self) -> None:
        """Renew the lease until the attempt ends, however long a step, an evaluation or a download takes."""
        pause = RENEW_SECONDS
        while not self._stop.wait(pause):
            if time.monotonic() - self._renewed_at < RENEW_SECONDS / 2:
                continue
            try:
                self._renew()
                pause = RENEW_SECONDS
            except LeaseLost:
                break
            except SQLAlchemyError as error:
                _logger.warning("The lease can't be renewed, still trying: %s", error)
                pause = RETRY_SECONDS
        if self._loss is not None and not self._stop.wait(LEAVE_SECONDS):
            _logger.warning("%s This process ends now.", self._loss)
            # Not by an exception: the work may be deep in a library. With 0, as who took over reports to Prefect.
            os._exit(0)
