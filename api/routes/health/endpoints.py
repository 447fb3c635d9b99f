"""Health endpoint."""

from fastapi import APIRouter

from api.platform import CurrentPlatform
from api.routes.health.schemas import HealthResponse
from api.version import VERSION
from registry.clock import utcnow

router = APIRouter(tags=["health"])


@router.get("/health")
async def check_health(platform: CurrentPlatform) -> HealthResponse:
    """Check if the API is running."""
    status = "healthy" if platform.monitor.healthy else "degraded"
    return HealthResponse(status=status, timestamp=utcnow(), version=VERSION, parts=platform.monitor.services)
