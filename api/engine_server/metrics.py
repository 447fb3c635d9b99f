"""The engine's Prometheus metrics: requests, tokens, the time to the first of them, and what its memory holds."""

from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.engine_server.schemas import EngineHealth

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
GAUGES = {
    "running": "Sequences that are being decoded: the batch",
    "waiting": "Queued requests, and those whose sequences are swapped out",
    "bytes": "Memory of weights, adapters and caches",
    "cache_tokens_used": "Tokens in ranges of the key-value cache that are taken",
    "cache_tokens": "Tokens that the key-value cache has room for",
}


class EngineMetrics:
    """The engine's counters; their names begin with `llm_engine_`."""

    def __init__(self, health: Callable[[], EngineHealth]) -> None:
        """`health` is asked at every scrape."""
        self.registry = CollectorRegistry()
        self.registry.register(_Gauges(health))
        self.requests = Counter("llm_engine_requests", "Requests by their end", ["reason"], registry=self.registry)
        self.prompt_tokens = Counter("llm_engine_prompt_tokens", "Tokens of prompts", registry=self.registry)
        self.first_token = Histogram(
            "llm_engine_time_to_first_token_seconds",
            "From the request to its first token, queueing included",
            buckets=SECONDS,
            registry=self.registry,
        )

    def text(self) -> bytes:
        """Return all of it in Prometheus' format."""
        return generate_latest(self.registry)


class _Gauges(Collector):
    """Gauges at the moment of the scrape, by base model."""

    def __init__(self, health: Callable[[], EngineHealth]) -> None:
        self._health = health

    def collect(self) -> Iterable[Metric]:
        """Return the count of tokens and the gauges."""
        health = self._health()
        generated = CounterMetricFamily("llm_engine_generated_tokens", "Tokens generated")
        generated.add_metric([], health.generated_tokens)
        yield generated
        for name, meaning in GAUGES.items():
            gauge = GaugeMetricFamily(f"llm_engine_{name}", meaning, labels=["base"])
            for model in health.models:
                gauge.add_metric([Path(model["weights"]).name], float(model[name]))  # type: ignore[literal-required]
            yield gauge
