"""Statistics door."""

from fastapi import APIRouter

from api.platform import Parts
from api.routes.statistics.schemas import StatisticsResponse
from api.routes.statistics.service import read_statistics

router = APIRouter(tags=["statistics"])


@router.get("/statistics")
def get_statistics(parts: Parts) -> StatisticsResponse:
    """Get overall platform statistics."""
    return read_statistics(parts.database)
