"""Status of a RoutingPolicy: is it accepted, do its references resolve, does every gateway run it.

The entries of ``status.gateways`` belong to the routers, one each; they are read here and never written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modelfleet.api.conditions import ConditionType, RoutingPolicyReason
from modelfleet.api.v1alpha1 import AgentTeam, RoutingPolicy
from modelfleet.api.v1alpha1.routingpolicy import GatewayStatus
from modelfleet.core.clock import Clock
from modelfleet.core.plan import GatewayEntry
from modelfleet.core.routing.ir import Problem
from modelfleet.core.world import Gateway

from .conditions import Finding, merge_conditions, to_wire

__all__ = ["routingpolicy_status", "vanished_gateways"]


def routingpolicy_status(policy: RoutingPolicy, problems: Sequence[Problem], gateways: Sequence[Gateway], clock: Clock) -> dict[str, Any]:
    """The operator's part of the status. ``problems``: what compiling this policy found; ``gateways``: every gateway pod."""
    ready = sorted((g for g in gateways if g.ready), key=lambda g: g.name)
    entries = {g.name: g for g in policy.status.gateways}
    reports = [entries.get(g.name) for g in ready]
    generation = policy.metadata.generation
    accepted = _from_problems(ConditionType.ACCEPTED, RoutingPolicyReason.ACCEPTED, problems)
    resolved = _resolved(problems, [r for r in reports if r is not None])
    programmed = _programmed(reports, generation)
    parts = [accepted, resolved, programmed]
    findings = [*parts, *_summary(parts)]
    return {
        "observedGeneration": generation,
        "entrypoints": ", ".join(e.name for e in policy.spec.entrypoints),
        "acknowledged": f"{sum(_runs(r, generation) for r in reports)}/{len(ready)}",
        "conditions": to_wire(merge_conditions(policy.status.conditions, findings, clock, generation)),
    }


def _summary(parts: Sequence[Finding]) -> list[Finding]:
    """Ready is the three together; Reconciling while gateways catch up; Stalled when only the user can help."""
    bad = [p for p in parts if not p.status]
    for_user = [p for p in bad if p.reason not in (RoutingPolicyReason.PENDING, RoutingPolicyReason.NO_GATEWAY)]
    worst, fatal = bad[0] if bad else parts[-1], for_user[0] if for_user else None
    return [
        Finding(ConditionType.READY, not bad, worst.reason, worst.message),
        Finding(ConditionType.RECONCILING, bool(bad) and fatal is None, worst.reason, worst.message if bad else ""),
        Finding(ConditionType.STALLED, fatal is not None, fatal.reason if fatal else RoutingPolicyReason.ACCEPTED, fatal.message if fatal else ""),
    ]


def vanished_gateways(of: RoutingPolicy | AgentTeam, gateways: Iterable[Gateway]) -> list[GatewayEntry]:
    """Entries of an object's status whose pod is gone."""
    alive = {g.name for g in gateways}
    return [GatewayEntry(of.KIND, of.metadata.namespace, of.metadata.name, g.name) for g in of.status.gateways if g.name not in alive]


def _from_problems(type_: ConditionType, good: RoutingPolicyReason, problems: Sequence[Problem]) -> Finding:
    found = sorted((p for p in problems if p.type == type_), key=lambda p: (p.reason, p.message))
    if not found:
        return Finding(type_, True, good)
    return Finding(type_, False, found[0].reason, "; ".join(dict.fromkeys(p.message for p in found)))


def _resolved(problems: Sequence[Problem], reports: Sequence[GatewayStatus]) -> Finding:
    """Routers alone read Secrets, so a missing one is known from what they report."""
    finding = _from_problems(ConditionType.RESOLVED_REFS, RoutingPolicyReason.RESOLVED_REFS, problems)
    missing = sorted({m for r in reports for m in r.missing})
    if not finding.status or not missing:
        return finding
    return Finding(ConditionType.RESOLVED_REFS, False, RoutingPolicyReason.SECRET_NOT_FOUND, "gateways miss: " + ", ".join(missing))


def _runs(report: GatewayStatus | None, generation: int) -> bool:
    return report is not None and report.generation == generation and not report.rejected and report.acknowledged_at is not None


def _programmed(reports: Sequence[GatewayStatus | None], generation: int) -> Finding:
    rejected = next((r for r in reports if r is not None and r.rejected), None)
    running = sum(_runs(r, generation) for r in reports)
    if not reports:
        return Finding(ConditionType.PROGRAMMED, False, RoutingPolicyReason.NO_GATEWAY, "no gateway pod is ready")
    if rejected is not None:
        return Finding(ConditionType.PROGRAMMED, False, RoutingPolicyReason.REJECTED, f"Envoy of {rejected.name} refused it: {rejected.rejected}")
    if running < len(reports):
        return Finding(ConditionType.PROGRAMMED, False, RoutingPolicyReason.PENDING, f"{running} of {len(reports)} gateways run generation {generation}")
    return Finding(ConditionType.PROGRAMMED, True, RoutingPolicyReason.ACKNOWLEDGED, f"{running} of {len(reports)} gateways run generation {generation}")
