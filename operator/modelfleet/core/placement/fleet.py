"""Placement of every pool of a world: who is planned when, and who gets a scarce device.

Replicas keep the devices they have. Slots for replicas that were promised earlier and are not scheduled yet are set
aside first, then pools are planned in order of their key; each sees what the others leave.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.core.catalogue.offers import Catalogue
from modelfleet.core.world import Pod, World

from .decision import PoolDecision
from .facts import FlavorFacts, PodFacts, Seen, endpoint_facts, pod_facts
from .leaving import Remains, leaving_of
from .ordered import Rules, hold_pool, place_pool, reserve
from .slots import Slots

__all__ = ["place_fleet"]


def place_fleet(world: World, catalogue: Catalogue) -> Mapping[str, PoolDecision]:
    """The decision for each pool, by key."""
    pools = sorted(world.pools, key=lambda p: p.key)
    seen = _see(world, catalogue)
    facts = {p.key: _facts_of(p, seen) for p in pools}
    remains = _remains(seen)
    slots = Slots(catalogue)
    for pool in pools:
        promised = [(f, min(f.committed, f.limit) if f.limit is not None else f.committed) for f in facts[pool.key] if isinstance(f, PodFacts)]
        reserve(pool.key, promised, slots)
    decisions: dict[str, PoolDecision] = {}
    for pool in pools:
        slots.release(pool.key)
        rules = Rules.of(pool)
        untouched = pool.paused or pool.metadata.deletion_timestamp is not None
        decision = hold_pool(rules, facts[pool.key], slots) if untouched else place_pool(rules, facts[pool.key], slots, world.now)
        decisions[pool.key] = replace(decision, leaving=leaving_of(pool, decision, remains.get(pool.key, ()), seen.node_ready, catalogue.class_of))
    return decisions


def _see(world: World, catalogue: Catalogue) -> Seen:
    pods: dict[tuple[str, str, str], list[Pod]] = defaultdict(list)
    for pod in world.pods:
        if pod.pool is not None and pod.flavor is not None:
            pods[pod.namespace, pod.pool, pod.flavor].append(pod)
    return Seen(
        catalogue=catalogue,
        workloads={(w.namespace, w.pool, w.flavor): w for w in world.workloads},
        pods=pods,
        node_ready={n.name: n.ready for n in world.nodes},
        telemetry=world.telemetry,
        now=world.now,
    )


def _remains(seen: Seen) -> Mapping[str, list[Remains]]:
    """By pool, all its Deployments."""
    found: dict[str, list[Remains]] = defaultdict(list)
    for key, workload in sorted(seen.workloads.items()):
        found[f"{workload.namespace}/{workload.pool}"].append(Remains(workload, seen.pods.get(key, ())))
    return found


def _facts_of(pool: ModelPool, seen: Seen) -> tuple[FlavorFacts, ...]:
    return tuple(endpoint_facts(pool, f, seen.telemetry) if f.endpoint is not None else pod_facts(pool, f, seen) for f in pool.spec.flavors)
