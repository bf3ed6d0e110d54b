"""Samples of gateways -> Telemetry: what was served in the last ten minutes, how endpoints are, and whether that may be believed.

Decided here: counters become deltas, and which deltas are dropped (docs/architecture.md: stale or missing telemetry never shrinks a pool); the
worst of what gateways say about an endpoint wins. Pure: time is an argument, in seconds of one monotonic clock. Not decided here: when to scrape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from modelfleet.core.world import EndpointHealth, Served, Telemetry

__all__ = ["FRESH_SECONDS", "WINDOW_SECONDS", "Fold", "Sample", "Tick", "fold", "telemetry_of"]

WINDOW_SECONDS: Final = 600.0
FRESH_SECONDS: Final = 30.0
_LARGEST_DELTA: Final = 2.0**53
_WORST_FIRST: Final = ("EndpointNotAllowed", "KeyRefused", "SecretMissing", "Unreachable", "RateLimited", "")

Series = tuple[str, str, str]
"""(pool, flavor, input|output)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer of one gateway. Counters are tokens since its router started; ``heartbeat`` is None when absent or not a number."""

    heartbeat: float | None = None
    tokens: Mapping[Series, float] = field(default_factory=dict)
    endpoints: tuple[EndpointHealth, ...] = ()


@dataclass(frozen=True, slots=True)
class _Gateway:
    """What is remembered of one gateway pod. ``beat_at``: when its heartbeat last advanced."""

    heartbeat: float | None
    beat_at: float | None
    sampled_at: float
    tokens: Mapping[Series, float]
    endpoints: tuple[EndpointHealth, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Tokens that all gateways together served between two scrapes, the later of which was ``at``."""

    at: float
    tokens: Mapping[Series, float]


@dataclass(frozen=True, slots=True)
class Fold:
    """Everything remembered. Gateways are keyed by pod (name and address), so that a replaced pod is a new one."""

    gateways: Mapping[str, _Gateway] = field(default_factory=dict)
    ring: tuple[Tick, ...] = ()
    since: float | None = None
    """When the first sample came; zero traffic is known from then on."""


def fold(state: Fold, samples: Mapping[str, Sample], present: frozenset[str], now: float) -> Fold:
    """Take in one round of scrapes. ``samples`` holds the gateways that answered, ``present`` all that exist; others are forgotten."""
    gateways = {key: known for key, known in state.gateways.items() if key in present}
    tokens: dict[Series, float] = {}
    for key, sample in sorted(samples.items()):
        if key not in present:
            continue
        known = gateways.get(key)
        for series, delta in _deltas(known, sample):
            tokens[series] = tokens.get(series, 0.0) + delta
        gateways[key] = _remember(known, sample, now)
    ring = tuple(tick for tick in state.ring if now - tick.at < WINDOW_SECONDS)
    if tokens:
        ring = (*ring, Tick(at=now, tokens=MappingProxyType(tokens)))
    since = now if state.since is None and samples else state.since
    return replace(state, gateways=MappingProxyType(gateways), ring=ring, since=since)


def telemetry_of(state: Fold, ready: frozenset[str], now: float) -> Telemetry:
    """What the planner may know at ``now``; ``ready`` are the gateways that should be answering."""
    # never zero: readers divide by it
    window = 1.0 if state.since is None else min(WINDOW_SECONDS, max(1.0, now - state.since))
    return Telemetry(served=_served(state, now, window), endpoints=_endpoints(state, now), fresh=_fresh(state, ready, now))


def _deltas(known: _Gateway | None, sample: Sample) -> Iterable[tuple[Series, float]]:
    """A gateway's first sample is its baseline: what it counted before we looked belongs to no window. Later, a new series began at zero."""
    if known is None:
        return
    for series, value in sample.tokens.items():
        if not _is_count(value):
            continue
        before = known.tokens.get(series, 0.0)
        delta = value - before if value >= before else value  # a counter that fell began again at zero
        if delta <= _LARGEST_DELTA:
            yield series, delta


def _remember(known: _Gateway | None, sample: Sample, now: float) -> _Gateway:
    counted = {series: value for series, value in sample.tokens.items() if _is_count(value)}
    heartbeat = sample.heartbeat if sample.heartbeat is not None and _is_count(sample.heartbeat) else None
    before, beat_at = (known.heartbeat, known.beat_at) if known else (None, None)
    if heartbeat is not None and heartbeat != before:
        # "newer" is "other": a router's wall clock may be set back, a dead router's stands still
        before, beat_at = heartbeat, now
    # series that are absent once keep their last value, lest they count twice when they come back
    tokens = {**known.tokens, **counted} if known else counted
    return _Gateway(heartbeat=before, beat_at=beat_at, sampled_at=now, tokens=MappingProxyType(tokens), endpoints=sample.endpoints)


def _is_count(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _served(state: Fold, now: float, window: float) -> tuple[Served, ...]:
    totals: dict[tuple[str, str], dict[str, float]] = {}
    for gateway in state.gateways.values():
        for pool, flavor, _ in gateway.tokens:
            totals.setdefault((pool, flavor), {})
    for tick in state.ring:
        if now - tick.at >= WINDOW_SECONDS:
            continue
        for (pool, flavor, direction), tokens in tick.tokens.items():
            directions = totals.setdefault((pool, flavor), {})
            directions[direction] = directions.get(direction, 0.0) + tokens
    return tuple(
        Served(pool=pool, flavor=flavor, input_tokens=round(by.get("input", 0.0)), output_tokens=round(by.get("output", 0.0)), window=window)
        for (pool, flavor), by in sorted(totals.items())
    )


def _endpoints(state: Fold, now: float) -> tuple[EndpointHealth, ...]:
    worst: dict[tuple[str, str], EndpointHealth] = {}
    for gateway in state.gateways.values():
        if now - gateway.sampled_at > FRESH_SECONDS:
            continue
        for health in gateway.endpoints:
            key = (health.pool, health.flavor)
            if key not in worst or _badness(health) < _badness(worst[key]):
                worst[key] = health
    return tuple(worst[key] for key in sorted(worst))


def _badness(health: EndpointHealth) -> int:
    """The smaller, the worse."""
    return _WORST_FIRST.index("" if health.up else health.reason if health.reason in _WORST_FIRST[:-1] else "Unreachable")


def _fresh(state: Fold, ready: frozenset[str], now: float) -> bool:
    return bool(ready) and all(_beats(state.gateways.get(key), now) for key in ready)


def _beats(gateway: _Gateway | None, now: float) -> bool:
    return gateway is not None and gateway.beat_at is not None and now - gateway.beat_at <= FRESH_SECONDS
