"""`GET /metrics`: the platform's services, jobs and evaluations, and what the engine says of itself."""

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Gauge, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from api.generation.engine_client import EngineError
from api.platform import CurrentPlatform, Platform
from api.services import OK
from registry.repositories.retention import RetentionRepository
from registry.repositories.statistics import REFUSED, StatisticsRepository
from registry.tables import RetentionPass

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def show_metrics(platform: CurrentPlatform) -> Response:
    """Get counters and gauges in Prometheus' format."""
    try:
        engine = await platform.engine.metrics()
    except EngineError:
        # The gauge of the engine says that it is down.
        engine = ""
    content = await asyncio.to_thread(_platform, platform) + engine.encode()
    return Response(content, media_type="text/plain; version=0.0.4")


def _platform(platform: Platform) -> bytes:
    registry = CollectorRegistry()
    up = Gauge("llm_platform_up", "Whether a service answered when last asked", ["part"], registry=registry)
    for name, service in platform.monitor.services().items():
        up.labels(name).set(service["status"] == OK)
    loop_ok = Gauge("llm_platform_loop_ok", "Whether a background loop has passed lately", ["loop"], registry=registry)
    failures = Gauge("llm_platform_loop_failures", "Failed passes of a loop in a row", ["loop"], registry=registry)
    for name, loop in platform.monitor.loops().items():
        loop_ok.labels(name).set(loop["ok"])
        failures.labels(name).set(loop["failures"])
    jobs = Gauge("llm_platform_training_jobs", "Training jobs by status", ["status"], registry=registry)
    evaluations = Gauge("llm_platform_evaluations", "Evaluations by status", ["status"], registry=registry)
    with platform.database.reading() as session:
        counts = StatisticsRepository(session).by_status()
        for gauge, table in ((jobs, "training_jobs"), (evaluations, "evaluations")):
            for status, count in counts[table].items():
                gauge.labels(status).set(count)
        retention = RetentionRepository(session)
        _add_disk(platform, registry, retention.usage(), retention.newest_pass())
    registry.register(_Refused(platform))
    return generate_latest(registry)


class _Refused(Collector):
    """Requests without a sufficient key, of every API process: one that is asked tells of them all."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def collect(self) -> Iterable[Metric]:
        """Return the count by reason."""
        stored, pending = self._platform.counters.with_pending(self._stored)
        name = "llm_platform_refused_requests"
        family = CounterMetricFamily(name, "Requests without a sufficient key", labels=["reason"])
        for reason, counter in REFUSED.items():
            family.add_metric([reason], stored[counter] + pending[counter])
        yield family

    def _stored(self) -> Counter[str]:
        with self._platform.database.reading() as session:
            return StatisticsRepository(session).counted()


def _add_disk(
    platform: Platform, registry: CollectorRegistry, usage: Mapping[str, int], newest: RetentionPass | None
) -> None:
    """Add what the disk has now, and what each kind of data took of it when that was last measured."""
    disk = shutil.disk_usage(platform.settings.data_dir)
    for name, what, value in (("free", "that is free", disk.free), ("total", "in all", disk.total)):
        gauge = Gauge(f"llm_platform_disk_{name}_bytes", f"Bytes {what} of the data folder's disk", registry=registry)
        gauge.set(value)
    used = Gauge("llm_platform_disk_used_bytes", "Bytes by kind of data, as last measured", ["kind"], registry=registry)
    for kind, size in usage.items():
        used.labels(kind).set(size)
    if newest is None:
        return
    ended = Gauge("llm_platform_retention_ended_seconds", "When retention's newest pass ended", registry=registry)
    ended.set(newest.ended_at.replace(tzinfo=UTC).timestamp())
    freed = Gauge("llm_platform_retention_freed_bytes", "What that pass freed", registry=registry)
    freed.set(newest.freed_bytes)
    failures = Gauge("llm_platform_retention_failures", "Rules that pass could not follow", registry=registry)
    failures.set(len(newest.failures))
