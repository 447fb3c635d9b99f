"""`GET /metrics`: the platform's parts, jobs and evaluations, and what the engine says of itself."""

import asyncio

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from api.engine.client import EngineError
from api.platform import Parts, Platform
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.training_jobs import TrainingJobRepository

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def show_metrics(parts: Parts) -> Response:
    """Get counters and gauges in Prometheus' format."""
    try:
        engine = await parts.engine.metrics()
    except EngineError:
        # The gauge of the part says that it is down.
        engine = ""
    content = await asyncio.to_thread(_platform, parts) + engine.encode()
    return Response(content, media_type="text/plain; version=0.0.4")


def _platform(platform: Platform) -> bytes:
    registry = CollectorRegistry()
    up = Gauge("llm_platform_up", "Whether a part answered when last asked", ["part"], registry=registry)
    for part in platform.monitor.parts:
        up.labels(part).set(platform.monitor.answers(part))
    jobs = Gauge("llm_platform_training_jobs", "Training jobs by status", ["status"], registry=registry)
    evaluations = Gauge("llm_platform_evaluations", "Evaluations by status", ["status"], registry=registry)
    with platform.database.reading() as session:
        for status, count in TrainingJobRepository(session).count_by_status().items():
            jobs.labels(status).set(count)
        for status, count in EvaluationRepository(session).count_by_status().items():
            evaluations.labels(status).set(count)
    return generate_latest(registry) + generate_latest(platform.refusals.registry)
