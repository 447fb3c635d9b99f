"""Health endpoint."""

from fastapi import APIRouter

from api.monitor import is_healthy
from api.platform import CurrentPlatform
from api.routes.health.schemas import HealthResponse
from api.version import VERSION
from registry.clock import utcnow

router = APIRouter(tags=["health"])


@router.get("/health")
def check_health(platform: CurrentPlatform) -> HealthResponse:
    """Check if the API is running, and how services and background loops fare."""
    services, loops = platform.monitor.services(), platform.monitor.loops()
    status = "healthy" if is_healthy(services, loops) else "degraded"
    return HealthResponse(status=status, timestamp=utcnow(), version=VERSION, parts=services, loops=loops)
