"""The text that a router's /metrics answers -> a Sample. Decided here: which lines count, and that a line that is wrong makes no number.

Only the few families the operator uses are parsed; the rest of a long answer is skipped unread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from modelfleet.core.world import EndpointHealth
from modelfleet.observability import metrics

from .fold import Sample, Series

__all__ = ["read_sample"]

_WANTED: Final = (metrics.USAGE_TOKENS, metrics.ENDPOINT_UP, metrics.HEARTBEAT)
_REASONS: Final = ("KeyRefused", "Unreachable", "RateLimited", "SecretMissing", "EndpointNotAllowed")
_DIRECTIONS: Final = ("input", "output")


def read_sample(text: str) -> Sample:
    """What one gateway says. Raises ValueError for text that is no exposition at all; absent families are absent from the sample."""
    heartbeat: float | None = None
    tokens: dict[Series, float] = {}
    endpoints: list[EndpointHealth] = []
    for name, labels, value in _samples(text):
        if name == metrics.HEARTBEAT:
            heartbeat = value
            continue
        pool, flavor = labels.get("pool", ""), labels.get("flavor", "")
        if not pool or not flavor:
            continue
        if name == metrics.USAGE_TOKENS and labels.get("direction") in _DIRECTIONS:
            series = (pool, flavor, labels["direction"])
            tokens[series] = tokens.get(series, 0.0) + value
        elif name == metrics.ENDPOINT_UP and value in (0.0, 1.0):
            endpoints.append(_health(pool, flavor, labels.get("reason", ""), up=value == 1.0))
    return Sample(heartbeat=heartbeat, tokens=tokens, endpoints=tuple(endpoints))


def _samples(text: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    lines = [line for line in text.splitlines() if line.startswith(_WANTED)]
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def _health(pool: str, flavor: str, reason: str, *, up: bool) -> EndpointHealth:
    if up:
        return EndpointHealth(pool=pool, flavor=flavor, up=True)
    return EndpointHealth(pool=pool, flavor=flavor, up=False, reason=reason if reason in _REASONS else "Unreachable")
