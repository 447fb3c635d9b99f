"""The keys that open the platform at this moment: those of the settings and those made while it runs, less the revoked.

Every process that asks for keys has its own `KnownKeys` over the same table, so a change reaches all within seconds.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy.exc import SQLAlchemyError

from configs.keys import ApiKey, Scope, holder_of
from registry.database import Database
from registry.repositories.api_keys import ApiKeyRepository

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 1.0
"""How old the list may be: for so long a revoked key may still be let in by another process."""


class KnownKeys:
    """Knows whose key was presented; asks the database at most once a second."""

    def __init__(self, database: Database, configured: Sequence[ApiKey]) -> None:
        self._database = database
        self._configured = configured
        self._keys: Sequence[ApiKey] | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()
        # A thread of its own: requests that are at work in the shared ones keep nobody from being asked for a key.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="known-keys")

    async def holder_of(self, presented: bytes) -> ApiKey | None:
        """Return the key that was presented; None for one that is unknown or revoked.

        While the database does not answer the last list holds; raises `SQLAlchemyError` if there was none yet.
        """
        # Who finds an old list waits for the new one: else one request could be let in by a list of any age.
        async with self._reading:
            if time.monotonic() - self._read_at > REFRESH_SECONDS:
                await self._refresh()
        assert self._keys is not None
        return holder_of(self._keys, presented)

    async def admits_admin(self, presented: bytes) -> bool:
        """Return whether a key of the scope admin was presented; none is one while keys can't be looked up."""
        try:
            holder = await self.holder_of(presented)
        except SQLAlchemyError:
            return False
        return holder is not None and holder.scope.covers(Scope.ADMIN)

    def expire(self) -> None:
        """Look again at the next request: a key was made or revoked in this process."""
        self._read_at = 0.0

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)

    async def _refresh(self) -> None:
        begun = time.monotonic()
        try:
            self._keys = await asyncio.get_running_loop().run_in_executor(self._thread, self._read)
        except SQLAlchemyError:
            if self._keys is None:
                raise
            logger.warning("the API keys can't be read; those last read still hold", exc_info=True)
        self._read_at = begun

    def _read(self) -> Sequence[ApiKey]:
        with self._database.reading() as session:
            return ApiKeyRepository(session).known(self._configured)
