"""The router's counters under the names of ``observability/metrics.py``, in a registry of their own so that a process may hold several."""

from __future__ import annotations

from time import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from modelfleet.observability import metrics as names

__all__ = ["RouterMetrics"]

_LATENCIES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_DECISIONS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05)


class RouterMetrics:
    """Every series a router exposes. Label values come from objects, never from requests."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(names.REQUESTS, "Finished requests, from access logs.", ["policy", "rule", "pool", "flavor", "code"], registry=self.registry)
        self.tokens = Counter(names.USAGE_TOKENS, "Tokens served.", ["pool", "flavor", "direction", "source"], registry=self.registry)
        self.micro_usd = Counter(names.USAGE_USD, "Micro-dollars at the pool's price.", ["pool", "flavor"], registry=self.registry)
        self.ttft = Histogram(names.TTFT_SECONDS, "Seconds to the first byte.", ["pool", "flavor"], buckets=_LATENCIES, registry=self.registry)
        self.endpoint_up = Gauge(names.ENDPOINT_UP, "1 up, 0 down with its reason.", ["pool", "flavor", "reason"], registry=self.registry)
        self.decisions = Histogram(names.DECIDER_SECONDS, "Seconds of one decision.", buckets=_DECISIONS, registry=self.registry)
        self.xds_acked = Counter(names.XDS_ACKED, "Updates Envoy acknowledged.", registry=self.registry)
        self.xds_rejected = Counter(names.XDS_REJECTED, "Updates Envoy rejected.", registry=self.registry)
        self.compile_errors = Counter(names.COMPILE_ERRORS, "Compilations that failed and changed nothing.", registry=self.registry)
        self.heartbeat = Gauge(names.HEARTBEAT, "Unix time of the sample.", registry=self.registry)
        self.heartbeat.set_function(time)
