"""The goals: measured value, goal, verdict. Pure: the whole result of a run in, one line per goal out.

No verdict on what depends on the clock when the machine was too noisy: direct p50 varied by more than 15 % over the blocks. Figures per CPU-second are
sturdier and are judged by their own spread. Neither gets one when something else ran on the machine before. Numbers of calls are always judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .figures import Json, added, noise, per_cpu_second

NOISY = 0.15
BUSY = 0.1
"""The share of the machine's time that others may take before a run."""
TARGET_RATE = "300"
"""Requests a second at which the added latency is judged."""
_JUDGED = ("100", "300")


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table. `most` and `least`: the bound, one of them None. `value` None: not measured. `noise`: the spread that forbids a verdict."""

    name: str
    unit: str
    value: float | None
    most: float | None = None
    least: float | None = None
    noise: float = 0.0

    @property
    def verdict(self) -> str:
        """met, missed, too noisy, or not measured."""
        if self.value is None:
            return "not measured"
        if self.noise > NOISY:
            return "too noisy"
        good = self.value <= self.most if self.most is not None else self.value >= (self.least or 0.0)
        return "met" if good else "missed"

    @property
    def goal(self) -> str:
        """The bound in words."""
        return f"at most {number(self.most)}" if self.most is not None else f"at least {number(self.least)}"

    def to_json(self) -> Json:
        """Fields, bound and verdict."""
        return asdict(self) | {"verdict": self.verdict}


def number(value: float | None) -> str:
    """Three figures of a number as people read it; thousands in whole numbers."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 and value != int(value) else f"{value:.3g}"


def goals(result: Mapping[str, Any]) -> list[Goal]:
    """All goals of a run. Parts that the run left out are not measured."""
    latency, blocks = result.get("latency") or {}, result.get("saturation") or []
    others = 1.0 if (result.get("machine") or {}).get("busy", 0.0) > BUSY else 0.0
    clock = max(others, clock_noise(result))
    target = latency.get(TARGET_RATE) or []
    decided, compiled, other = (per_cpu_second(blocks, name) for name in ("decided", "compiled", "litellm"))
    ratio = decided["median"] / other["median"] if decided and other else None
    idle = result.get("idle")
    decisions = (result.get("decisions") or {}).get("check")
    return [
        Goal("RoutingPolicy applied until served, p99", "ms", _of(result.get("apply"), "p99"), most=250, noise=clock),
        Goal("endpoint changed until used, p99", "ms", _of(result.get("endpoints"), "p99"), most=100, noise=clock),
        Goal(f"added p50 at {TARGET_RATE}/s, a decision on every request", "ms", _of(added(target, "decided", "p50"), "median"), most=1.5, noise=clock),
        Goal(f"added p99 at {TARGET_RATE}/s, a decision on every request", "ms", _of(added(target, "decided", "p99"), "median"), most=6, noise=clock),
        Goal(f"added p50 at {TARGET_RATE}/s, compiled away", "ms", _of(added(target, "compiled", "p50"), "median"), most=0.4, noise=clock),
        Goal(
            "requests per CPU-second, Envoy and router, a decision on every request",
            "1/s",
            _of(decided, "median"),
            least=1200,
            noise=max(others, _spread(decided)),
        ),
        Goal("requests per CPU-second, Envoy and router, compiled away", "1/s", _of(compiled, "median"), least=4000, noise=max(others, _spread(compiled))),
        Goal("the same, a decision on every request, over LiteLLM's", "times", ratio, least=12, noise=max(others, _spread(decided), _spread(other))),
        Goal("decisions per second and core, Checks over gRPC", "1/s", _of(decisions, "median"), least=2000, noise=max(others, _spread(decisions))),
        Goal("idle API calls a minute, operator", "1/min", calls(idle, "modelfleet-operator"), most=20),
        Goal("idle API calls a minute, all processes", "1/min", calls(idle, "modelfleet-"), most=40),
    ]


def clock_noise(result: Mapping[str, Any]) -> float:
    """How much direct p50 varies over the blocks, at the rates that are judged."""
    return noise({rate: blocks for rate, blocks in (result.get("latency") or {}).items() if rate in _JUDGED})


def missed(lines: Iterable[Goal]) -> list[Goal]:
    """Those that were measured well enough and are not met."""
    return [line for line in lines if line.verdict == "missed"]


def calls(idle: Mapping[str, Any] | None, agent: str) -> float | None:
    """Calls a minute of all agents whose name begins so; None when nothing was counted."""
    if not idle:
        return None
    return float(sum(sum(verbs.values()) for who, verbs in idle["calls"].items() if who.startswith(agent)))


def _of(figures: Mapping[str, Any] | None, name: str) -> float | None:
    return None if figures is None else figures[name]


def _spread(figures: Mapping[str, Any] | None) -> float:
    return 0.0 if figures is None else figures["spread"]
