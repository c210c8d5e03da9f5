"""The engine's counters as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engines.lmhost.engine import Engine

COUNTERS = {
    "requests": "Samples taken in.",
    "failed": "Samples that ended in an error.",
    "prompt_tokens": "Prompt tokens taken in.",
    "cached_tokens": "Prompt tokens that did not have to be computed.",
    "completion_tokens": "Tokens of finished answers.",
    "passes": "Forward passes over running rows.",
    "pass_tokens": "New tokens in these passes; divided by passes, the batch size.",
    "remembered": "Tokens chosen without a forward pass.",
    "guessed": "Drafted tokens that were right.",
}
GAUGES = {"running": "Rows in the engine.", "waiting": "Rows that wait for a place."}


class EngineCollector(Collector):
    """Reads the engine's counters when asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """All metrics, with the prefix ``lmhost_``."""
        stats = self._engine.stats
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"lmhost_{name}", text, value=getattr(stats, name))
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(f"lmhost_{name}", text, value=getattr(stats, name))
        yield GaugeMetricFamily("lmhost_lora_adapters", "LoRA adapters loaded.", value=len(self._engine.adapters))
        yield GaugeMetricFamily("lmhost_sleeping", "1 while the device is handed over.", value=float(self._engine.sleeping))


def render(engine: Engine) -> bytes:
    """The text format."""
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine))
    return generate_latest(registry)
