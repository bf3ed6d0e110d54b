"""Figures from raw measurements: percentiles, spreads, what was added, calls per minute. Pure; milliseconds unless a name says otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from statistics import median
from typing import Any

Json = dict[str, Any]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of all values do not exceed. Raises ValueError for no values."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def summary(values: Sequence[float]) -> Json:
    """Number, p50, p99 and the greatest of some durations."""
    return {"n": len(values), "p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "max": max(values)}


def spread(values: Sequence[float]) -> float:
    """(greatest - smallest) / median: how much a figure differs from block to block. 0 for one value; raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    middle = median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def across(values: Sequence[float]) -> Json:
    """Median over the blocks, with the least, the greatest and the spread."""
    return {"median": median(values), "least": min(values), "greatest": max(values), "spread": spread(values)}


def added(blocks: Sequence[Mapping[str, Json]], contestant: str, figure: str) -> Json | None:
    """What a contestant adds to `direct` in the same block. None where it was not measured in every block."""
    if not blocks or any(contestant not in block or "direct" not in block for block in blocks):
        return None
    return across([block[contestant][figure] - block["direct"][figure] for block in blocks])


def per_cpu_second(blocks: Sequence[Mapping[str, Json]], contestant: str) -> Json | None:
    """Good answers per second of CPU of all of a contestant's processes, over the blocks."""
    measured = [block[contestant] for block in blocks if contestant in block]
    return across([m["good"] / sum(m["cpu"].values()) for m in measured]) if measured else None


def noise(latency: Mapping[str, Sequence[Mapping[str, Json]]]) -> float:
    """The greatest spread of direct p50 over the blocks of any rate; 0 when nothing was measured."""
    return max((spread([block["direct"]["p50"] for block in blocks]) for blocks in latency.values() if blocks), default=0.0)


def calls_per_minute(events: Iterable[Mapping[str, Any]], began: datetime, ended: datetime, agent: str = "modelfleet-") -> dict[str, dict[str, float]]:
    """API calls per minute by user agent and verb, of agents that begin so, from audit events that began in the window.

    A watch leaves an event when it opens and one when it ends: calls are counted by their audit id.
    """
    minutes = (ended - began).total_seconds() / 60
    seen: dict[str, tuple[str, str]] = {}
    for event in events:
        who = str(event.get("userAgent", ""))
        at = datetime.fromisoformat(str(event["requestReceivedTimestamp"]))
        if who.startswith(agent) and began <= at < ended:
            seen[str(event["auditID"])] = (who, str(event["verb"]))
    counts: dict[str, dict[str, float]] = {}
    for who, verb in sorted(seen.values()):
        counts.setdefault(who, {}).setdefault(verb, 0.0)
        counts[who][verb] += 1 / minutes
    return counts
