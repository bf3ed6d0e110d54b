"""The operator's own metrics: one registry, made once per process, named in ``observability/metrics.py``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from modelfleet.observability import metrics

__all__ = ["Meters"]

_CYCLE_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class _Writes(Collector):
    """The client counts its own writes; this shows them."""

    def __init__(self, writes: Mapping[tuple[str, str], int]) -> None:
        self._writes = writes

    def collect(self) -> Iterator[Metric]:
        """One counter for each verb and kind."""
        family = CounterMetricFamily(metrics.WRITES, "Calls that asked the API server to change something.", labels=["verb", "kind"])
        for (verb, kind), count in sorted(self._writes.items()):
            family.add_metric([verb, kind], count)
        yield family


class Meters:
    """What the loop counts. Pass it on; there is no global one."""

    def __init__(self, writes: Mapping[tuple[str, str], int]) -> None:
        """``writes``: live counts by (verb, kind), as ``kube.client.Client.writes``."""
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.cycles = Counter(metrics.CYCLES, "Cycles of observe, plan, act.", registry=self.registry)
        self.cycle_seconds = Histogram(metrics.CYCLE_SECONDS, "Seconds of a cycle by step.", ["step"], buckets=_CYCLE_BUCKETS, registry=self.registry)
        self.registry.register(_Writes(writes))
        self.errors = Counter(metrics.PLAN_ERRORS, "Failures that will be tried again, by step.", ["step"], registry=self.registry)
        self.loop_lag = Gauge(metrics.LOOP_LAG, "Seconds the event loop was late.", registry=self.registry)
        self.leader = Gauge(metrics.LEADER, "1 while this process holds the Lease.", registry=self.registry)
