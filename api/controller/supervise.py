"""Runs a background loop so that it can't die silently: every pass counts, every error is logged, and it goes on."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

import httpx
from sqlalchemy.exc import OperationalError

from api.errors import ServiceDown
from registry.clock import utcnow
from registry.tables import LoopState

logger = logging.getLogger(__name__)

PASS_SECONDS = 120.0
"""A pass that takes longer is cancelled, and counts as failed: nothing waits for ever."""
LONGEST_PAUSE_SECONDS = 10.0
SAID_AGAIN_SECONDS = 300.0
"""An error that goes on is logged this often."""
LONGEST_ERROR = 500
OUTAGES = (ServiceDown, httpx.HTTPError, OperationalError)
"""What a service that is away raises: one line of the log says it, and a traceback would say no more."""


@dataclass
class Loop:
    """A background loop: what one pass does, how often, and how it fares."""

    name: str
    run_pass: Callable[[], Awaitable[None]]
    interval: float
    """Seconds from the end of one pass to the next."""
    pass_seconds: float = PASS_SECONDS
    longest_pause: float = LONGEST_PAUSE_SECONDS
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to begin the next pass now, unless the last one failed."""
    retry: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to begin the next pass now after one that failed: what it waits for may be there again."""
    passes: int = 0
    failures: int = 0
    last_ok_at: datetime | None = None
    last_error: str | None = None
    last_error_at: datetime | None = None
    _said_at: float = float("-inf")

    def state(self) -> LoopState:
        """Return what the table keeps of it."""
        return LoopState(
            name=self.name,
            interval_seconds=self.interval,
            passes=self.passes,
            failures=self.failures,
            last_ok_at=self.last_ok_at,
            last_error=self.last_error,
            last_error_at=self.last_error_at,
        )

    @property
    def pause(self) -> float:
        """Seconds until the next pass: longer after each failure in a row."""
        return min(self.interval * 2.0 ** min(self.failures, 10), max(self.longest_pause, self.interval))

    def succeeded(self) -> None:
        """Count a pass that ended without an error."""
        if self.failures:
            logger.info("the loop %r works again", self.name)
        self.passes += 1
        self.failures = 0
        self.last_ok_at = utcnow()
        self._said_at = float("-inf")

    def failed(self, error: Exception) -> None:
        """Count a pass that failed, and log why, unless the same was logged a moment ago."""
        said = (str(error) or type(error).__name__)[:LONGEST_ERROR]
        again = said == self.last_error and time.monotonic() - self._said_at < SAID_AGAIN_SECONDS
        self.failures += 1
        self.last_error, self.last_error_at = said, utcnow()
        if again:
            return
        self._said_at = time.monotonic()
        if isinstance(error, OUTAGES):
            logger.warning("the loop %r waits: %s", self.name, said)
        else:
            logger.error("the loop %r failed, and goes on: %s", self.name, said, exc_info=error)


async def supervise(loop: Loop, may_run: Callable[[], bool], on_failure: Callable[[], None]) -> None:
    """Run passes until cancelled: whatever a pass raises, the next one comes, later after each failure in a row.

    `may_run` says whether this process still leads; a pass is left out while it does not. `on_failure` is called after
    each pass that failed.
    """
    while True:
        if may_run():
            try:
                async with asyncio.timeout(loop.pass_seconds):
                    await loop.run_pass()
            except TimeoutError as error:
                loop.failed(TimeoutError(str(error) or f"a pass took longer than {loop.pass_seconds:g} s"))
                on_failure()
            except Exception as error:  # noqa: BLE001 - the edge of a loop: recorded, shown, and tried again
                loop.failed(error)
                on_failure()
            else:
                loop.succeeded()
        # What happened during the pass wakes it at once; after a failure only time does, or a service that is back.
        with suppress(TimeoutError):
            await asyncio.wait_for((loop.retry if loop.failures else loop.wake).wait(), loop.pause)
        loop.wake.clear()
        loop.retry.clear()
