"""Contestants in turn, A B C D A B C D: latency at fixed rates, then answers per CPU-second in a closed loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from e2e.lab.steps import LabError

from .figures import Json, percentile
from .load import Answer, attack
from .processes import Started

WARM = 0.5
"""Seconds at the start of an open loop that do not count: connections are made."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """`processes`: whose CPU counts, by name. `whys`: words of a decision that an answer must bear to count as meant. `rates`: at which it is asked."""

    name: str
    urls: Sequence[str]
    model: str
    processes: Mapping[str, Started] = field(default_factory=dict)
    whys: frozenset[str] = frozenset(("",))
    rates: frozenset[int] = frozenset()

    def good(self, answer: Answer) -> bool:
        """True for an answer as it was meant: 200, and decided (or not) as this contestant says."""
        return answer.status == 200 and answer.why in self.whys


def latency(contestants: Sequence[Contestant], folder: Path, rate: int, seconds: float) -> dict[str, Json]:
    """One block at a fixed rate: percentiles of good answers, in milliseconds, waiting included."""
    block: dict[str, Json] = {}
    for contestant in contestants:
        if rate in contestant.rates:
            seen = [a for a in attack(folder, contestant.urls, contestant.model, seconds + WARM, rate) if a.at >= WARM]
            times = _good(contestant, seen)
            block[contestant.name] = {
                "sent": len(seen),
                "good": len(times),
                "p50": percentile(times, 0.5),
                "p90": percentile(times, 0.9),
                "p99": percentile(times, 0.99),
            }
    return block


def saturation(contestants: Sequence[Contestant], folder: Path, seconds: float, connections: int = 16) -> dict[str, Json]:
    """One block of the closed loop: good answers, seconds of CPU by process, median latency under this load."""
    block: dict[str, Json] = {}
    for contestant in contestants:
        attack(folder, contestant.urls, contestant.model, WARM, connections=connections)
        before = {name: process.cpu for name, process in contestant.processes.items()}
        seen = attack(folder, contestant.urls, contestant.model, seconds, connections=connections)
        cpu = {name: process.cpu - before[name] for name, process in contestant.processes.items()}
        times = _good(contestant, seen)
        block[contestant.name] = {
            "sent": len(seen),
            "good": len(times),
            "seconds": seconds,
            "cpu": cpu,
            "p50": percentile(times, 0.5),
            "p99": percentile(times, 0.99),
        }
    return block


def _good(contestant: Contestant, seen: Sequence[Answer]) -> list[float]:
    times = [a.milliseconds for a in seen if contestant.good(a)]
    if not times:
        found = sorted({(a.status, a.why) for a in seen})
        raise LabError(f"{contestant.name}: no answer was as meant; status and decision seen: {found}")
    return times
