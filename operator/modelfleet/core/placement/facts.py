"""What is seen of a pool's flavors, before anything is decided: counts of replicas, memory of earlier plans, signs of trouble.

Decided here: how a pod counts (ready, starting, pending, draining, lost, crash-looping) and when a flavor is in trouble
(unschedulable though devices looked free, refused by a quota, crash-looping, endpoint down). A pod on a node that is
gone or not Ready is *lost*: it serves nobody, and its replacement is placed in the same cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final

from modelfleet.api.conditions import FlavorReason
from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.api.v1alpha1.common import parse_duration
from modelfleet.api.v1alpha1.modelpool import Flavor, FlavorStatus
from modelfleet.core.catalogue.match import CPU
from modelfleet.core.clock import Clock
from modelfleet.core.world import EndpointHealth, Pod, Workload

from .rollout import Rollout, rollout_of
from .surroundings import Surroundings

__all__ = ["EndpointFacts", "FlavorFacts", "PodFacts", "Trouble", "cpu_request", "facts_of", "milli", "units_per_replica"]

IMAGE_REASONS: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError"}
)
CRASHES_BEFORE_GIVING_UP: Final = 3
"""Restarts of a pod that never settled: the kubelet's back-off has then grown past a minute, so it is no hiccup."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why replicas of a flavor do not come up."""

    reason: FlavorReason
    message: str


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A flavor that runs pods. ``resource``: what its class counts, None: no such class; ``units``: what one replica takes of it.

    ``failing`` pods hold devices in vain.
    """

    name: str
    class_name: str
    resource: str | None
    units: int
    limit: int | None
    committed: int
    ready: int = 0
    starting: int = 0
    failing: int = 0
    pending: int = 0
    draining: int = 0
    lost: int = 0
    trouble: Trouble | None = None
    soonest_timeout: datetime | None = None
    rollout: Rollout = field(default_factory=Rollout)
    previous: FlavorStatus | None = None

    @property
    def bound(self) -> int:
        """Replicas that have their devices."""
        return self.ready + self.starting + self.failing

    @property
    def live(self) -> int:
        """Replicas that serve or are about to."""
        return self.ready + self.starting


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """A remote endpoint. ``reachable`` None: nobody has asked it yet, so it counts as usable. ``stands_in``: replicas it replaced so far."""

    name: str
    reachable: bool | None
    down: Trouble | None
    stands_in: int
    fresh: bool
    previous: FlavorStatus | None = None


FlavorFacts = PodFacts | EndpointFacts


def facts_of(near: Surroundings, clock: Clock) -> tuple[FlavorFacts, ...]:
    """The facts of each flavor of a pool, in the order of its spec."""
    return tuple(
        _endpoint_facts(near, flavor) if flavor.endpoint is not None else _pod_facts(near, flavor, resource, clock)
        for flavor, resource in zip(near.pool.spec.flavors, near.resources, strict=True)
    )


def _pod_facts(near: Surroundings, flavor: Flavor, resource: str | None, clock: Clock) -> PodFacts:
    """Count the flavor's pods and look for trouble."""
    pool, workload = near.pool, near.workload(flavor.name)
    alive = [p for p in near.pods if p.flavor == flavor.name and p.phase not in ("Succeeded", "Failed")]
    leaving = [p for p in alive if p.deleting]
    staying = [p for p in alive if not p.deleting]
    pending = [p for p in staying if p.node is None]
    lost = [p for p in staying if p.node is not None and not near.is_ready(p.node)]
    bound = [p for p in staying if p.node is not None and near.is_ready(p.node)]
    timeout = parse_duration(pool.spec.placement.pending_timeout)
    failing = [p for p in bound if _is_failing(p, timeout, clock)]
    ready = [p for p in bound if p.ready]
    committed = max(0, (workload.replicas if workload else 0) - len(lost))
    missing = committed > len(bound) - len(failing)
    trouble = None
    if missing:
        trouble = _refused(workload, committed, len(staying)) or _crashing(failing) or _unschedulable(pending, timeout, clock)
    return PodFacts(
        name=flavor.name,
        class_name=flavor.accelerator_class or "",
        resource=resource,
        units=units_per_replica(pool, flavor, resource),
        limit=flavor.max,
        committed=committed,
        ready=len(ready),
        starting=len(bound) - len(ready) - len(failing),
        failing=len(failing),
        pending=len(pending),
        draining=len(leaving),
        lost=len(lost),
        trouble=trouble,
        rollout=rollout_of(workload, alive, near.is_ready, missing=max(0, committed - len(bound)), timeout=timeout, clock=clock),
        soonest_timeout=_soonest_timeout(pending, bound, timeout, clock),
        previous=_previous(pool, flavor),
    )


def _endpoint_facts(near: Surroundings, flavor: Flavor) -> EndpointFacts:
    """What routers say of the endpoint; while they say nothing fresh, what was known before."""
    previous = _previous(near.pool, flavor)
    health = next((h for h in near.endpoints if h.flavor == flavor.name), None)
    if near.fresh:
        reachable = health.up if health else None
        down = _endpoint_trouble(flavor, health) if health and not health.up else None
    else:
        reachable = previous.reachable if previous else None
        down = None
        if reachable is False and previous:
            known = previous.reason in _ENDPOINT_REASONS
            down = Trouble(FlavorReason(previous.reason) if known else FlavorReason.UNREACHABLE, previous.message)
    return EndpointFacts(flavor.name, reachable, down, previous.desired if previous else 0, near.fresh, previous)


def units_per_replica(pool: ModelPool, flavor: Flavor, resource: str | None) -> int:
    """Units of the class's resource that one replica asks for: its devices, or on a cpu class its CPU request in millicores."""
    devices = flavor.devices or 1
    if resource != CPU:
        return devices
    asked = cpu_request(pool, flavor)
    return max(1, milli(asked)) if asked else devices * 1000


def cpu_request(pool: ModelPool, flavor: Flavor) -> str | None:
    """The CPU request that the pool or (before it) the flavor writes down, if any."""
    engines = (flavor.engine, pool.spec.engine)
    for engine in engines:
        if engine and engine.resources and engine.resources.requests and "cpu" in engine.resources.requests:
            return engine.resources.requests["cpu"]
    return None


_ENDPOINT_REASONS = frozenset(
    (
        FlavorReason.KEY_REFUSED,
        FlavorReason.UNREACHABLE,
        FlavorReason.RATE_LIMITED,
        FlavorReason.SECRET_MISSING,
        FlavorReason.ENDPOINT_NOT_ALLOWED,
    )
)
_SUFFIX = {"m": Fraction(1, 1000), "": Fraction(1), "k": Fraction(1000), "Ki": Fraction(1024)}


def milli(quantity: str) -> int:
    """Millicores of a CPU quantity such as ``500m``, ``2`` or ``0.5``, rounded up as the scheduler does."""
    digits = quantity.rstrip("mkMGTPi")
    factor = _SUFFIX.get(quantity[len(digits) :], Fraction(1_000_000))
    return -int(-(Fraction(digits) * factor * 1000) // 1)


def _previous(pool: ModelPool, flavor: Flavor) -> FlavorStatus | None:
    return next((f for f in pool.status.flavors if f.name == flavor.name), None)


def _is_failing(pod: Pod, timeout: float, clock: Clock) -> bool:
    if pod.ready or pod.created is None or not clock.reached(pod.created + timedelta(seconds=timeout)):
        return False
    return pod.waiting_reason in IMAGE_REASONS or (pod.waiting_reason == "CrashLoopBackOff" and pod.restarts >= CRASHES_BEFORE_GIVING_UP)


def _refused(workload: Workload | None, committed: int, pods: int) -> Trouble | None:
    if workload is None or not workload.failure or pods >= committed:
        return None
    reason = FlavorReason.QUOTA_EXCEEDED if "quota" in workload.failure.lower() else FlavorReason.PODS_REFUSED
    return Trouble(reason, f"the API server refuses the pods: {workload.failure}")


def _crashing(failing: Sequence[Pod]) -> Trouble | None:
    if not failing:
        return None
    pod = failing[0]
    return Trouble(FlavorReason.CRASH_LOOPING, f"pod {pod.name} does not come up: {pod.waiting_reason}; see its logs and events")


def _unschedulable(pending: Sequence[Pod], timeout: float, clock: Clock) -> Trouble | None:
    stuck = [p for p in pending if p.unschedulable_since and clock.reached(p.unschedulable_since + timedelta(seconds=timeout))]
    if not stuck:
        return None
    return Trouble(
        FlavorReason.PENDING_TIMEOUT, f"pod {stuck[0].name} could not be scheduled for {timeout:g}s: {stuck[0].unschedulable_message or 'no reason given'}"
    )


def _soonest_timeout(pending: Sequence[Pod], bound: Sequence[Pod], timeout: float, clock: Clock) -> datetime | None:
    starts = [p.unschedulable_since for p in pending if p.unschedulable_since]
    starts += [p.created for p in bound if p.created and not p.ready and p.waiting_reason]
    ends = [s + timedelta(seconds=timeout) for s in starts]
    return min((e for e in ends if not clock.reached(e)), default=None)


def _endpoint_trouble(flavor: Flavor, health: EndpointHealth) -> Trouble:
    url = flavor.endpoint.url if flavor.endpoint else ""
    match health.reason:
        case FlavorReason.KEY_REFUSED:
            secret = flavor.endpoint.auth_secret_ref if flavor.endpoint else None
            where = f"key {secret.key} of Secret {secret.name}" if secret else "the endpoint wants a key and none is configured (authSecretRef)"
            return Trouble(FlavorReason.KEY_REFUSED, f"{url} refused the key: {where}")
        case FlavorReason.SECRET_MISSING:
            secret = flavor.endpoint.auth_secret_ref if flavor.endpoint else None
            return Trouble(
                FlavorReason.SECRET_MISSING, f"Secret {secret.name} or its key {secret.key} does not exist" if secret else "the Secret does not exist"
            )
        case FlavorReason.ENDPOINT_NOT_ALLOWED:
            return Trouble(
                FlavorReason.ENDPOINT_NOT_ALLOWED, f"{url} leads into the cluster or its network: the platform may allow it (chart value endpoints.allow)"
            )
        case FlavorReason.RATE_LIMITED:
            return Trouble(FlavorReason.RATE_LIMITED, f"{url} answers 429: its rate limit is reached")
        case _:
            return Trouble(FlavorReason.UNREACHABLE, f"{url} does not answer")
