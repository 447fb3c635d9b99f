"""What the statistics say."""

from dataclasses import asdict, replace

from api.platform import Platform
from api.routes.statistics.schemas import StatisticsResponse
from registry.clock import utcnow
from registry.repositories.statistics import GENERATIONS, PlatformCounts, StatisticsRepository


def read_statistics(platform: Platform) -> StatisticsResponse:
    """Return the counts: the database's, with the answers of this process that are not yet in it."""

    def stored() -> PlatformCounts:
        with platform.database.reading() as session:
            return StatisticsRepository(session).counts()

    counts, pending = platform.counters.with_pending(stored)
    counts = replace(counts, total_generations=counts.total_generations + pending[GENERATIONS])
    return StatisticsResponse(**asdict(counts), timestamp=utcnow())
