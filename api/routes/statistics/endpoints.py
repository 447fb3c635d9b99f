"""Statistics endpoint."""

from fastapi import APIRouter

from api.platform import CurrentPlatform
from api.routes.statistics.schemas import StatisticsResponse
from api.routes.statistics.service import read_statistics

router = APIRouter(tags=["statistics"])


@router.get("/statistics")
def get_statistics(platform: CurrentPlatform) -> StatisticsResponse:
    """Get overall platform statistics."""
    return read_statistics(platform)
