"""Health door."""

from fastapi import APIRouter

from api.platform import Parts
from api.routes.health.schemas import HealthResponse
from api.version import VERSION
from registry.clock import utcnow

router = APIRouter(tags=["health"])


@router.get("/health")
async def check_health(parts: Parts) -> HealthResponse:
    """Check if the API is running."""
    status = "healthy" if parts.monitor.healthy else "degraded"
    return HealthResponse(status=status, timestamp=utcnow(), version=VERSION, parts=parts.monitor.parts)
