"""What placement decides: values that carry their reasons."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from modelfleet.api.conditions import FlavorReason

from .facts import FlavorFacts, PodFacts

__all__ = ["FlavorDecision", "Leaving", "PoolDecision"]


@dataclass(frozen=True, slots=True)
class FlavorDecision:
    """One flavor after the plan. ``desired``: replicas of its Deployment, or for an endpoint the replicas it stands in for.

    ``in_place``: a rollout of the flavor stops each replica before it starts the next (``rollout.py``).
    """

    facts: FlavorFacts
    desired: int
    reason: FlavorReason
    message: str = ""
    free_since: datetime | None = None
    retry_after: datetime | None = None
    in_place: bool = False

    @property
    def name(self) -> str:
        """The flavor's name."""
        return self.facts.name

    @property
    def deployment_replicas(self) -> int:
        """What the Deployment must ask for: lost pods are still counted by it, and must not keep their replacement away."""
        return self.desired + self.facts.lost if isinstance(self.facts, PodFacts) else 0


@dataclass(frozen=True, slots=True)
class Leaving:
    """A flavor that left the spec. ``bound``: its replicas that have their devices; ``held``: its Deployment stays for now."""

    name: str
    ready: int
    bound: int
    held: bool


@dataclass(frozen=True, slots=True)
class PoolDecision:
    """One pool after the plan. ``unplaced``: replicas that no flavor can hold now. ``timers``: when a decision of this pool may change by time alone."""

    key: str
    wanted: int
    flavors: tuple[FlavorDecision, ...]
    unplaced: int = 0
    timers: tuple[datetime, ...] = ()
    leaving: tuple[Leaving, ...] = ()

    @property
    def pods_desired(self) -> int:
        """Replicas asked of pod flavors in all."""
        return sum(f.desired for f in self.flavors if isinstance(f.facts, PodFacts))

    @property
    def pods_ready(self) -> int:
        """Replicas that serve."""
        return sum(f.facts.ready for f in self.flavors if isinstance(f.facts, PodFacts))

    @property
    def leaving_ready(self) -> int:
        """Replicas that serve and belong to flavors that left the spec."""
        return sum(f.ready for f in self.leaving if f.held)

    @property
    def stands_in(self) -> int:
        """Replicas that remote endpoints stand in for."""
        return sum(f.desired for f in self.flavors if not isinstance(f.facts, PodFacts))

    def flavor(self, name: str) -> FlavorDecision:
        """The flavor of that name; raises KeyError."""
        for decision in self.flavors:
            if decision.name == name:
                return decision
        raise KeyError(name)
