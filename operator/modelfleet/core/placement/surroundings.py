"""The part of a world that concerns one pool: all that its placement, children, status and events may depend on but the ledger of slots and the time.

Two worlds in which a pool has equal surroundings decide it alike, whatever else differs; that is what lets a plan take over from the one before it. So
nothing of a world may reach a pool past this. Records are sorted here, once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from modelfleet.api.v1alpha1 import AcceleratorClass, ModelPool
from modelfleet.core.catalogue.offers import Catalogue
from modelfleet.core.world import Defaults, EndpointHealth, Pod, Served, Workload, World

__all__ = ["SPELLS", "Neighbourhood", "Standing", "Surroundings", "neighbourhood"]

T = TypeVar("T", Pod, Workload)
Told = TypeVar("Told", EndpointHealth, Served)

SPELLS: Final = (60.0, 10.0)
"""Seconds. A rate that was watched for less than the first is not set against one that is known, and for less than the second it says nothing at all."""


class Standing(NamedTuple):
    """A node as its pods see it: whether it is there and Ready, and its class (empty: none)."""

    node: str
    ready: bool
    class_name: str


class Surroundings(NamedTuple):
    """See the module. A tuple, since a thousand of them are compared in every plan and what is the same object is not looked into.

    ``workloads`` and ``pods`` are the pool's, sorted by flavor and name; ``nodes``: those that its pods are bound to; ``endpoints`` and ``served``: what
    routers say of it. ``resources`` and ``classes`` per flavor, None where there is no such class. ``fresh``: of all telemetry; ``seen_for``: seconds that it
    was surely watched, one of ``SPELLS`` or 0.
    """

    key: str
    pool: ModelPool
    workloads: tuple[Workload, ...]
    pods: tuple[Pod, ...]
    nodes: tuple[Standing, ...]
    resources: tuple[str | None, ...]
    classes: tuple[AcceleratorClass | None, ...]
    endpoints: tuple[EndpointHealth, ...]
    served: tuple[Served, ...]
    fresh: bool
    seen_for: float
    defaults: Defaults

    def workload(self, flavor: str) -> Workload | None:
        """The Deployment of a flavor."""
        return next((w for w in reversed(self.workloads) if w.flavor == flavor), None)

    def is_ready(self, node: str) -> bool:
        """Whether a node is there and Ready."""
        return any(n.ready for n in self.nodes if n.node == node)

    def class_of(self, node: str) -> str:
        """The class of a node, empty if it has none."""
        return next((n.class_name for n in self.nodes if n.node == node), "")


class _Found(NamedTuple):
    """What was found of a pool beside its object; fields as in Surroundings."""

    workloads: tuple[Workload, ...]
    pods: tuple[Pod, ...]
    endpoints: tuple[EndpointHealth, ...]
    served: tuple[Served, ...]

    def in_(self, near: Surroundings) -> bool:
        return near.workloads is self.workloads and near.pods is self.pods and near.endpoints == self.endpoints and near.served == self.served


@dataclass(frozen=True, slots=True)
class Common:
    """What pools share: nodes by name, classes with their resource by name, and what is true of all telemetry."""

    standing: Mapping[str | None, Standing]
    resources: Mapping[str, str]
    classes: Mapping[str, AcceleratorClass]
    fresh: bool
    seen_for: float
    defaults: Defaults


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """The surroundings of each pool, by key, and what they were taken from: while that is the same, they are the same objects."""

    of: Mapping[str, Surroundings] = field(default_factory=dict)
    common: Common | None = None
    pods: tuple[Pod, ...] = ()
    pods_of: Mapping[str, tuple[Pod, ...]] = field(default_factory=dict)
    workloads: tuple[Workload, ...] = ()
    workloads_of: Mapping[str, tuple[Workload, ...]] = field(default_factory=dict)


def neighbourhood(
    world: World, pools: Mapping[str, ModelPool], catalogue: Catalogue, classes: Mapping[str, AcceleratorClass], before: Neighbourhood
) -> Neighbourhood:
    """The surroundings of ``pools`` (by key, in their order) in a world. ``classes`` by name; ``before``: those of an earlier world."""
    endpoints, served = _told_of(world.telemetry.endpoints), _told_of(world.telemetry.served)
    pods_of = before.pods_of if world.pods is before.pods else _by_pool((p for p in world.pods if p.pool is not None and p.flavor is not None), before.pods_of)
    workloads_of = before.workloads_of if world.workloads is before.workloads else _by_pool(world.workloads, before.workloads_of)
    common = _common(world, catalogue, classes)
    same = common == before.common
    of = {}
    for key, pool in pools.items():
        found = _Found(_own(pool, workloads_of.get(key, ())), pods_of.get(key, ()), endpoints.get(key, ()), served.get(key, ()))
        known = before.of.get(key) if same else None
        of[key] = known if known is not None and known.pool is pool and found.in_(known) else _surroundings(key, pool, found, common)
    return Neighbourhood(of, common, world.pods, pods_of, world.workloads, workloads_of)


def _own(pool: ModelPool, workloads: tuple[Workload, ...]) -> tuple[Workload, ...]:
    """Without what a pool of this name left behind that is gone: it is no reason to place the new one alike, and the garbage collector has it.

    What has no owner (orphaned on purpose) is taken over where the pool has such a flavor; nobody may delete the rest. A pool from a file has no uid yet.
    """
    uid, flavors = pool.metadata.uid, {f.name for f in pool.spec.flavors}
    strange = [w for w in workloads if (uid and uid not in w.owners if w.owners else w.flavor not in flavors)]
    return tuple(w for w in workloads if w not in strange) if strange else workloads


def _common(world: World, catalogue: Catalogue, classes: Mapping[str, AcceleratorClass]) -> Common:
    return Common(
        standing={n.name: Standing(n.name, n.ready, catalogue.class_of.get(n.name, "")) for n in world.nodes},
        resources={name: offer.resource for name, offer in catalogue.classes.items()},
        classes=classes,
        fresh=world.telemetry.fresh,
        seen_for=next((spell for spell in SPELLS if not any(s.window < spell for s in world.telemetry.served)), 0.0),
        defaults=world.defaults,
    )


def _surroundings(key: str, pool: ModelPool, found: _Found, common: Common) -> Surroundings:
    names = [f.accelerator_class or "" for f in pool.spec.flavors]
    return Surroundings(
        key,
        pool,
        found.workloads,
        found.pods,
        tuple(common.standing[p.node] for p in found.pods if p.node in common.standing),
        tuple(map(common.resources.get, names)),
        tuple(map(common.classes.get, names)),
        found.endpoints,
        found.served,
        common.fresh,
        common.seen_for,
        common.defaults,
    )


def _by_pool(records: Iterable[T], before: Mapping[str, tuple[T, ...]]) -> dict[str, tuple[T, ...]]:
    """By key of the pool, sorted; the very tuple of ``before`` where it is equal."""
    found: dict[str, list[T]] = defaultdict(list)
    for record in records:
        found[f"{record.namespace}/{record.pool}"].append(record)
    groups = {}
    for key, of in found.items():
        known, group = before.get(key), tuple(sorted(of, key=lambda r: (r.flavor or "", r.name)) if len(of) > 1 else of)
        groups[key] = known if known is not None and known == group else group
    return groups


def _told_of(records: Iterable[Told]) -> dict[str, tuple[Told, ...]]:
    found: dict[str, list[Told]] = defaultdict(list)
    for record in records:
        found[record.pool].append(record)
    return {key: tuple(of) for key, of in found.items()}
