"""What is worth an Event: a change between what the status says and what this plan decides.

Comparing with the status, not with an earlier cycle, makes a crash between two writes harmless: the event comes once more at worst.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

from modelfleet.api.conditions import ConditionType, EventReason, FlavorReason
from modelfleet.api.parse import InvalidObject, one_line
from modelfleet.api.v1alpha1 import AcceleratorClass, AgentTeam, ModelPool
from modelfleet.core.catalogue.offers import MatchedTwice
from modelfleet.core.placement.decision import PoolDecision
from modelfleet.core.plan import Event
from modelfleet.core.teams.ir import TeamsPlan

from .conditions import bounded
from .modelpool import changed_replicas

__all__ = ["invalid_events", "matched_twice_events", "pool_events", "team_events"]

WORTH_A_WARNING: Final = frozenset(
    {
        FlavorReason.NO_FREE_DEVICE,
        FlavorReason.PENDING_TIMEOUT,
        FlavorReason.CLASS_NOT_FOUND,
        FlavorReason.NO_MATCHING_NODES,
        FlavorReason.QUOTA_EXCEEDED,
        FlavorReason.PODS_REFUSED,
        FlavorReason.CRASH_LOOPING,
        FlavorReason.ROLLOUT_WAITS_FOR_DEVICE,
        FlavorReason.KEY_REFUSED,
        FlavorReason.UNREACHABLE,
        FlavorReason.RATE_LIMITED,
        FlavorReason.SECRET_MISSING,
        FlavorReason.ENDPOINT_NOT_ALLOWED,
    },
)
MAX_MESSAGE: Final = 1000


def pool_events(pool: ModelPool, decision: PoolDecision) -> list[Event]:
    """Events of one pool, in order of its flavors; the change of replicas last."""
    before = {f.name: f.reason for f in pool.status.flavors}
    events: list[Event] = []
    for flavor in decision.flavors:
        was = before.get(flavor.name)
        if was == flavor.reason:
            continue
        if flavor.reason in WORTH_A_WARNING:
            events.append(_event(pool, "Warning", str(flavor.reason), f"{flavor.name}: {flavor.message}"))
        elif flavor.reason is FlavorReason.FALLBACK and was != FlavorReason.MIGRATING_BACK:
            events.append(_event(pool, "Normal", EventReason.FLAVOR_FALLBACK, f"{flavor.name} is used: {flavor.message}"))
        elif flavor.reason is FlavorReason.MIGRATING_BACK:
            events.append(_event(pool, "Normal", EventReason.MIGRATING_BACK, f"{flavor.name}: {flavor.message}"))
        elif was == FlavorReason.MIGRATING_BACK and flavor.desired:
            events.append(_event(pool, "Normal", EventReason.MIGRATED_BACK, f"{flavor.name} serves again with {flavor.desired}"))
    changed = changed_replicas(pool, decision)
    if changed:
        events.append(_event(pool, "Normal", EventReason.SCALED, ", ".join(f"{f.name} {old} -> {f.desired}" for f, old in changed)))
    return events


def matched_twice_events(twice: Iterable[MatchedTwice], classes: Mapping[str, AcceleratorClass], news: frozenset[str]) -> list[Event]:
    """One event on the winning class for each node of ``news`` that several classes match."""
    events = []
    for match in twice:
        if match.node in news:
            winner = classes[match.winner]
            message = (
                f"node {match.node} matches {', '.join((match.winner, *match.losers))}; it belongs to {match.winner}: more requirements, or the earlier name"
            )
            events.append(Event(winner.KIND, "", match.winner, winner.metadata.uid, "Warning", EventReason.NODE_MATCHED_TWICE, message[:MAX_MESSAGE]))
    return events


def team_events(team: AgentTeam, plans: TeamsPlan) -> list[Event]:
    """Compiled when a team has another revision than its status says; Rejected when it is refused in words that its status does not have yet."""
    plan = plans.teams.get(team.key)
    if plan is not None:
        return [] if plan.revision == team.status.revision else [_event(team, "Normal", EventReason.COMPILED, f"revision {plan.revision}")]
    refused = [p for p in plans.problems if p.team == team.key and p.type == ConditionType.ACCEPTED]
    known = {(c.reason, c.message) for c in team.status.conditions if c.type == ConditionType.ACCEPTED and c.status == "False"}
    return [_event(team, "Warning", EventReason.REJECTED, p.message) for p in refused if (p.reason, bounded(p.message)) not in known]


def invalid_events(broken: InvalidObject) -> list[Event]:
    """One event when an object was not known to be invalid yet."""
    if any(c.type == "Stalled" and c.status == "True" and c.observed_generation == broken.generation for c in broken.conditions):
        return []
    message = "; ".join(broken.errors)[:MAX_MESSAGE]
    return [Event(broken.kind, broken.namespace, broken.name, broken.uid, "Warning", EventReason.INVALID_SPEC, message)]


def _event(of: ModelPool | AgentTeam, type_: Literal["Normal", "Warning"], reason: str, message: str) -> Event:
    meta = of.metadata
    return Event(of.KIND, meta.namespace, meta.name, meta.uid, type_, str(reason), one_line(message)[:MAX_MESSAGE])
