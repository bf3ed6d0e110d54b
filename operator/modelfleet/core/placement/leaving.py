"""Flavors that are no longer in the spec and still serve: how long their Deployments stay.

Such a Deployment cannot be rendered any more, so it is held as it is, replicas included, and then pruned whole; its pods drain as usual.
It is held while it has ready replicas and the flavors of the spec have fewer than are wanted; an endpoint that is up and freshly
seen stands in for any number. One way out for a flavor that was merely renamed on a full class: when replicas have no place because
the leaving pods hold the devices of their class, and all others are ready, it is pruned, since nobody would ever replace it otherwise.
"""

from __future__ import annotations

from modelfleet.api.conditions import FlavorReason
from modelfleet.core.world import Workload

from .decision import Leaving, PoolDecision
from .facts import EndpointFacts, PodFacts
from .surroundings import Surroundings

__all__ = ["leaving_of"]


def leaving_of(near: Surroundings, decision: PoolDecision) -> tuple[Leaving, ...]:
    """The flavors that leave, sorted by name."""
    described = {f.name for f in near.pool.spec.flavors if f.endpoint is None}
    return tuple(_leaving(near, decision, w) for w in near.workloads if w.flavor not in described)


def _leaving(near: Surroundings, decision: PoolDecision, workload: Workload) -> Leaving:
    pods = [p for p in near.pods if p.flavor == workload.flavor]
    bound = [p for p in pods if p.node is not None and near.is_ready(p.node) and p.holds_devices and not p.deleting]
    ready = sum(p.ready for p in bound)
    needed = ready > 0 and not _covered(decision) and not _in_the_way(decision, {near.class_of(p.node or "") for p in bound})
    return Leaving(workload.flavor, ready, len(bound), needed)


def _covered(decision: PoolDecision) -> bool:
    remote = any(isinstance(f.facts, EndpointFacts) and f.facts.fresh and f.facts.down is None for f in decision.flavors)
    return remote or decision.pods_ready >= decision.wanted


def _in_the_way(decision: PoolDecision, held: set[str]) -> bool:
    if not decision.unplaced or decision.pods_ready < decision.wanted - decision.unplaced:
        return False
    return any(isinstance(f.facts, PodFacts) and f.reason is FlavorReason.NO_FREE_DEVICE and f.facts.class_name in held for f in decision.flavors)
