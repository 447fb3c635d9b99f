"""Shapes of the health check."""

from typing import Any, Literal

from pydantic import Field

from api.schemas import ResponseBody, Timestamp


class HealthResponse(ResponseBody):
    """Whether the platform works, and what each service's state is."""

    status: Literal["healthy", "degraded"] = Field(
        description="`healthy` only while every service answers and every loop has passed lately"
    )
    timestamp: Timestamp
    version: str
    parts: dict[str, dict[str, Any]] = Field(
        description="State of database, prefect, mlflow, worker, engine and controller"
    )
    loops: dict[str, dict[str, Any]] = Field(
        description="The controller's background loops: whether each has passed lately, and its last error"
    )
