"""What the statistics say."""

from dataclasses import asdict

from api.routes.statistics.schemas import StatisticsResponse
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.statistics import StatisticsRepository


def read_statistics(database: Database) -> StatisticsResponse:
    """Return the counts, from the database alone."""
    with database.reading() as session:
        counts = StatisticsRepository(session).counts()
    return StatisticsResponse(**asdict(counts), timestamp=utcnow())
