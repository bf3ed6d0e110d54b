"""Status of a ModelPool: what is seen of it, and why it is so.

Figures come from ``figures.py``; here are the flavors, the columns, the last decision and the conditions. Nothing depends
on the clock but the times of transitions and decisions, which are set once.

A pool that wants 0 replicas says ScaledToZero and nothing else. It is Ready, for it is as its owner wants it (as a Deployment of 0 replicas is
Available): a GitOps controller would else wait for ever. The message says whether something still answers: an endpoint does, which gateways go on using
when there are no pods; but the pool promises no capacity, so no endpoint is called serving and none stands in.
"""

from __future__ import annotations

from typing import Any, Final

from modelfleet.api.conditions import ConditionType, FlavorReason, ModelPoolReason
from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.api.v1alpha1.modelpool import Flavor, FlavorStatus, LastDecision, ModelPoolStatus, Reason
from modelfleet.core.clock import Clock
from modelfleet.core.economics.money import format_dollars
from modelfleet.core.placement.decision import FlavorDecision, Leaving, PoolDecision
from modelfleet.core.placement.facts import EndpointFacts, PodFacts

from .conditions import Finding, merge_conditions
from .figures import Figures, paying_replicas

__all__ = ["changed_replicas", "modelpool_status"]

ONLY_THE_USER_CAN_HELP: Final = frozenset(
    {
        FlavorReason.CLASS_NOT_FOUND,
        FlavorReason.NO_MATCHING_NODES,
        FlavorReason.QUOTA_EXCEEDED,
        FlavorReason.PODS_REFUSED,
        FlavorReason.CRASH_LOOPING,
        FlavorReason.KEY_REFUSED,
        FlavorReason.SECRET_MISSING,
        FlavorReason.ENDPOINT_NOT_ALLOWED,
        FlavorReason.AT_MAX,
    },
)
MAX_REASONS: Final = 16


def modelpool_status(pool: ModelPool, decision: PoolDecision, figures: Figures, selector: str, clock: Clock) -> dict[str, Any]:
    """The whole status. ``selector``: labels of the pool's pods, for the scale subresource."""
    flavors = [_flavor_status(f, d, figures) for f, d in zip(pool.spec.flavors, decision.flavors, strict=True)]
    pods = [f.facts for f in decision.flavors if isinstance(f.facts, PodFacts)]
    generation = pool.metadata.generation
    return ModelPoolStatus(
        observed_generation=generation,
        replicas=sum(p.live for p in pods) + sum(f.bound for f in decision.leaving if f.held),
        ready=f"{decision.pods_ready}/{decision.wanted}" if pods else "-",
        flavor_summary=_summary(decision),
        decision_reason=str(decision.flavors[0].reason) if decision.wanted else str(ModelPoolReason.SCALED_TO_ZERO),
        selector=selector,
        served_names=[pool.spec.model.name],
        tokens_per_second=figures.tokens_per_second,
        flavors=flavors,
        cost=figures.cost,
        price=list(figures.prices),
        last_decision=_last_decision(pool, decision, clock),
        conditions=merge_conditions(pool.status.conditions, _findings(pool, decision), clock, generation),
    ).to_wire()


def changed_replicas(pool: ModelPool, decision: PoolDecision) -> tuple[tuple[FlavorDecision, int], ...]:
    """Flavors whose desired replicas are not what the status says, with what it says."""
    before = {f.name: f.desired for f in pool.status.flavors}
    return tuple((f, before.get(f.name, 0)) for f in decision.flavors if f.desired != before.get(f.name, 0))


def _flavor_status(flavor: Flavor, decision: FlavorDecision, figures: Figures) -> FlavorStatus:
    facts = decision.facts
    if isinstance(facts, EndpointFacts):
        return FlavorStatus(
            name=flavor.name,
            desired=decision.desired,
            reachable=facts.reachable,
            concurrency=flavor.endpoint.concurrency if flavor.endpoint else None,
            free_since=decision.free_since,
            reason=str(decision.reason),
            message=decision.message,
        )
    per_hour = figures.replica_per_hour.get(flavor.name)
    full_load = figures.full_load.get(flavor.name)
    capacity = flavor.capacity
    return FlavorStatus(
        name=flavor.name,
        desired=decision.desired,
        ready=facts.ready,
        starting=facts.starting + facts.failing,
        pending=facts.pending,
        draining=facts.draining,
        devices_per_replica=flavor.devices or 1,
        tokens_per_second=capacity.tokens_per_second if capacity else None,
        concurrency=capacity.concurrency if capacity else None,
        capacity_source="Declared" if capacity else None,
        cost_per_hour=None if per_hour is None else format_dollars(per_hour * paying_replicas(facts)),
        per_million_at_full_load=None if full_load is None else format_dollars(full_load.output_per_million),
        free_since=decision.free_since,
        retry_after=decision.retry_after,
        reason=str(decision.reason),
        message=decision.message,
    )


def _summary(decision: PoolDecision) -> str:
    """``h100:2 l4:1``; an endpoint that stands in is named without a count, for it has no replicas."""
    used = [f.name if isinstance(f.facts, EndpointFacts) else f"{f.name}:{f.desired}" for f in decision.flavors if f.desired]
    used += [f"{f.name}:{f.bound}" for f in decision.leaving if f.held]
    return " ".join(used) or "-"


def _last_decision(pool: ModelPool, decision: PoolDecision, clock: Clock) -> LastDecision | None:
    changed = changed_replicas(pool, decision)
    if not changed:
        return pool.status.last_decision
    moves = ", ".join(f"{f.name} {before} -> {f.desired}" for f, before in changed)
    first = decision.flavors[0]
    why = next((f"{f.name}: {f.message}" for f in decision.flavors if f.message), f"{first.name}: {first.reason}")
    reasons = [Reason(code=str(f.reason), flavor=f.name, detail=f.message) for f in decision.flavors][:MAX_REASONS]
    return LastDecision(time=clock.second(), summary=f"{moves} ({why})", reasons=reasons)


def _findings(pool: ModelPool, decision: PoolDecision) -> list[Finding]:
    stalled = _stalled(decision)
    # who waits for a person is not on its way: kstatus would report InProgress for ever
    progressing = Finding(ConditionType.PROGRESSING, False, stalled.reason) if stalled.status else _progressing(decision)
    return [
        _ready(decision),
        progressing,
        Finding(ConditionType.RECONCILING, progressing.status, progressing.reason, progressing.message),
        _degraded(decision),
        stalled,
        _paused(pool),
        _placed(decision),
        _workloads_ready(decision),
        _endpoints_reachable(decision),
    ]


def _ready(decision: PoolDecision) -> Finding:
    usable = [f.name for f in decision.flavors if isinstance(f.facts, EndpointFacts) and f.facts.down is None]
    if decision.wanted == 0:
        left = "" if decision.pods_ready else "; nothing answers"
        answers = f"; {usable[0]} answers what still comes" if usable else left
        return Finding(ConditionType.READY, True, ModelPoolReason.SCALED_TO_ZERO, f"0 replicas are wanted{answers}")
    if decision.pods_ready:
        return Finding(ConditionType.READY, True, ModelPoolReason.SERVING, f"{decision.pods_ready} of {decision.wanted} replicas ready")
    if decision.leaving_ready:
        names = " and ".join(f.name for f in decision.leaving if f.held)
        return Finding(ConditionType.READY, True, ModelPoolReason.SERVING, f"0 of {decision.wanted} replicas ready; {names} serves until they are")
    if usable:
        no_pod = "no pod is ready; " if any(isinstance(f.facts, PodFacts) for f in decision.flavors) else ""
        return Finding(ConditionType.READY, True, ModelPoolReason.ENDPOINT_SERVING, f"{no_pod}{usable[0]} serves")
    return Finding(ConditionType.READY, False, ModelPoolReason.NOTHING_READY, f"0 of {decision.wanted} replicas ready")


def _progressing(decision: PoolDecision) -> Finding:
    unfinished = [u for f in decision.flavors if isinstance(f.facts, PodFacts) and (u := _unfinished(f, f.facts))] + [_left(f) for f in decision.leaving]
    if decision.unplaced:
        unfinished.append((ModelPoolReason.CONVERGING, f"replicas without a place: {decision.unplaced}"))
    if unfinished:
        return Finding(ConditionType.PROGRESSING, True, *unfinished[0])
    return Finding(ConditionType.PROGRESSING, False, ModelPoolReason.CONVERGED)


def _unfinished(flavor: FlavorDecision, facts: PodFacts) -> tuple[ModelPoolReason, str] | None:
    reason, message = ModelPoolReason.CONVERGING, ""
    if flavor.reason is FlavorReason.ROLLOUT_WAITS_FOR_DEVICE:
        reason, message = ModelPoolReason.ROLLOUT_WAITS_FOR_DEVICE, flavor.message
    elif facts.rollout.mixed and facts.rollout.stuck:
        message = f"the old revision serves, the new one cannot be scheduled; {facts.rollout.stuck}"
    elif facts.ready != flavor.desired:
        message = f"{facts.ready} ready of {flavor.desired} desired"
    elif facts.draining:
        message = f"{facts.draining} draining"
    elif facts.rollout.mixed:
        message = "a new revision is on its way"
    return (reason, f"{flavor.name}: {message}") if message else None


def _left(leaving: Leaving) -> tuple[ModelPoolReason, str]:
    why = "its replicas serve until others do" if leaving.held else "its replicas leave"
    return ModelPoolReason.CONVERGING, f"{leaving.name} is no longer among the flavors; {why}"


def _degraded(decision: PoolDecision) -> Finding:
    missing = decision.wanted - decision.pods_ready - decision.leaving_ready - decision.stands_in
    in_place = [f.name for f in decision.flavors if f.in_place]
    if missing > 0 and in_place:
        message = f"replicas that do not serve: {missing} of {decision.wanted}; {in_place[0]} has no free device and replaces them one at a time"
        return Finding(ConditionType.DEGRADED, True, ModelPoolReason.ROLLOUT_WAITS_FOR_DEVICE, message)
    if missing > 0:
        return Finding(ConditionType.DEGRADED, True, ModelPoolReason.TOO_FEW_READY, f"replicas that do not serve: {missing} of {decision.wanted}")
    return Finding(ConditionType.DEGRADED, False, ModelPoolReason.AS_PROMISED)


def _stalled(decision: PoolDecision) -> Finding:
    if decision.unplaced and all(f.reason in ONLY_THE_USER_CAN_HELP for f in decision.flavors):
        return Finding(ConditionType.STALLED, True, ModelPoolReason.NO_USABLE_FLAVOR, _why_each(decision))
    return Finding(ConditionType.STALLED, False, ModelPoolReason.NOT_STALLED)


def _paused(pool: ModelPool) -> Finding:
    if pool.paused:
        return Finding(ConditionType.PAUSED, True, ModelPoolReason.PAUSED_BY_ANNOTATION, "nothing is written to its children")
    return Finding(ConditionType.PAUSED, False, ModelPoolReason.NOT_PAUSED)


def _placed(decision: PoolDecision) -> Finding:
    if decision.unplaced:
        message = f"replicas without a place: {decision.unplaced} of {decision.wanted}; {_why_each(decision)}"
        return Finding(ConditionType.PLACED, False, ModelPoolReason.UNPLACED, message)
    return Finding(ConditionType.PLACED, True, ModelPoolReason.ALL_PLACED)


def _workloads_ready(decision: PoolDecision) -> Finding:
    ready, desired = decision.pods_ready, decision.pods_desired
    if ready < desired:
        return Finding(ConditionType.WORKLOADS_READY, False, ModelPoolReason.STARTING, f"{ready} of {desired} ready")
    return Finding(ConditionType.WORKLOADS_READY, True, ModelPoolReason.ALL_READY)


def _endpoints_reachable(decision: PoolDecision) -> Finding:
    endpoints = [f for f in decision.flavors if isinstance(f.facts, EndpointFacts)]
    if not endpoints:
        return Finding(ConditionType.ENDPOINTS_REACHABLE, True, ModelPoolReason.NO_ENDPOINTS)
    for flavor in endpoints:
        if isinstance(flavor.facts, EndpointFacts) and flavor.facts.down is not None:
            return Finding(ConditionType.ENDPOINTS_REACHABLE, False, str(flavor.facts.down.reason), f"{flavor.name}: {flavor.facts.down.message}")
    if any(isinstance(f.facts, EndpointFacts) and f.facts.reachable is None for f in endpoints):
        return Finding(ConditionType.ENDPOINTS_REACHABLE, None, ModelPoolReason.NOT_OBSERVED, "no gateway has used it yet")
    return Finding(ConditionType.ENDPOINTS_REACHABLE, True, ModelPoolReason.REACHABLE)


def _why_each(decision: PoolDecision) -> str:
    return "; ".join(f"{f.name}: {f.message or f.reason}" for f in decision.flavors)
