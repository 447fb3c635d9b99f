"""Removes every night what nothing needs any more, and measures the disk in between."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from configs.settings import Settings
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.retention import RetentionRepository
from registry.repositories.statistics import StatisticsRepository
from tasks.retention.collect import AlreadyRunning, Report, collect, record_usage

logger = logging.getLogger(__name__)


class RetentionPass:
    """Measures the disk and folds the counts at every call; follows the rules once a day, after `retention_hour`."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._since = utcnow()

    async def run_pass(self) -> None:
        """Make one pass; raises what the database raises."""
        await asyncio.to_thread(self.work)

    def work(self) -> Report | None:
        """Make one pass; returns what was removed, or None if it was not yet time."""
        with self._database.transaction() as session:
            StatisticsRepository(session).fold_counts()
        if not self.is_due(datetime.now().astimezone()):
            record_usage(self._settings, self._database)
            return None
        try:
            report = collect(self._settings, self._database)
        except AlreadyRunning as error:
            logger.info("%s", error)
            return None
        logger.info("retention removed %d things and freed %d bytes", report.count, report.freed_bytes)
        for sentence in report.failures:
            logger.warning("retention could not follow a rule: %s", sentence)
        return report

    def is_due(self, now: datetime) -> bool:
        """Return whether the hour has struck since the newest pass, or since the start where there was none."""
        struck = now.replace(hour=self._settings.retention_hour, minute=0, second=0, microsecond=0)
        if struck > now:
            struck -= timedelta(days=1)
        with self._database.reading() as session:
            newest = RetentionRepository(session).newest_pass()
        last = newest.started_at if newest is not None else self._since
        return last.replace(tzinfo=UTC) < struck
