"""Status of an object that does not parse: it stalls alone, says which paths are wrong, and what runs for it is left untouched."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from modelfleet.api.conditions import AcceleratorClassReason, AgentTeamReason, ConditionType, ModelPoolReason, RoutingPolicyReason
from modelfleet.api.parse import InvalidObject
from modelfleet.core.clock import Clock

from .conditions import Finding, merge_conditions, to_wire

__all__ = ["invalid_status"]

_REASONS = {
    "ModelPool": str(ModelPoolReason.INVALID_SPEC),
    "AcceleratorClass": str(AcceleratorClassReason.INVALID_SPEC),
    "RoutingPolicy": str(RoutingPolicyReason.INVALID),
    "AgentTeam": str(AgentTeamReason.INVALID_SPEC),
}


def invalid_status(broken: InvalidObject, now: datetime) -> dict[str, Any]:
    """Stalled, not Ready, and the sentences of the parser as the message."""
    reason = _REASONS.get(broken.kind, str(ModelPoolReason.INVALID_SPEC))
    message = "; ".join(broken.errors)
    findings = [
        Finding(ConditionType.READY, False, reason, message),
        Finding(ConditionType.RECONCILING, False, reason, "waiting for a valid spec"),
        Finding(ConditionType.STALLED, True, reason, message),
    ]
    if broken.kind in ("RoutingPolicy", "AgentTeam"):
        findings.append(Finding(ConditionType.ACCEPTED, False, reason, message))
    return {"observedGeneration": broken.generation, "conditions": to_wire(merge_conditions(broken.conditions, findings, Clock(now), broken.generation))}
