"""Accelerator classes x nodes x pods -> what each class offers now.

Decided here: which class a node belongs to (the more specific one; tie by name), which label it must carry, and how many
devices are in use and free on it. Inside, quantities are units of the class's resource: devices, or millicores for a
``cpu`` class. Not decided here: who gets a free device (``core/placement``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from modelfleet.api.v1alpha1 import AcceleratorClass
from modelfleet.api.v1alpha1.acceleratorclass import NodeEntry
from modelfleet.core.plan import NodeLabel
from modelfleet.core.world import Node, Pod

from .match import CPU, entry_matches, specificity
from .recognise import recognise_node

__all__ = ["Catalogue", "ClassOffer", "MatchedTwice", "Matches", "NodeOffer", "build_catalogue", "class_of_node", "node_labels"]

Matches = tuple[tuple[str, NodeEntry], ...]
"""Classes that match a node with the entry that did, the winner first."""


@dataclass(frozen=True, slots=True)
class NodeOffer:
    """A node of a class. Quantities in units of ``resource``; ``usable``: Ready and schedulable."""

    node: str
    resource: str
    capacity: int
    allocatable: int
    requested: int
    usable: bool

    @property
    def free(self) -> int:
        """Units that a new pod could get here; 0 on a node that takes no pods, or that is overcommitted since its capacity shrank."""
        return max(0, self.allocatable - self.requested) if self.usable else 0


@dataclass(frozen=True, slots=True)
class ClassOffer:
    """What a class offers. ``resource`` is what its pods ask for; ``unit``: how many units make one device (1000 millicores: a core).

    ``free_devices`` and ``allocatable_devices``: whole devices that pods could get now, and that there are in all, counted node by node.
    """

    name: str
    resource: str
    nodes: tuple[NodeOffer, ...] = ()
    free_devices: int = 0
    allocatable_devices: int = 0

    @property
    def unit(self) -> int:
        """Units per device."""
        return 1000 if self.resource == CPU else 1

    def devices(self, units: int) -> int:
        """Whole devices in so many units."""
        return units // self.unit


@dataclass(frozen=True, slots=True)
class MatchedTwice:
    """A node that several classes match: ``winner`` got it."""

    node: str
    winner: str
    losers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every class with its nodes, and the class of every node that has one. ``matches``: by name, each node and what matches it."""

    classes: Mapping[str, ClassOffer] = field(default_factory=dict)
    class_of: Mapping[str, str] = field(default_factory=dict)
    matched_twice: tuple[MatchedTwice, ...] = ()
    matches: Mapping[str, tuple[Node, Matches]] = field(default_factory=dict)


def build_catalogue(
    classes: Iterable[AcceleratorClass], nodes: Iterable[Node], pods: Iterable[Pod], before: Mapping[str, tuple[Node, Matches]] | None = None
) -> Catalogue:
    """The catalogue of one snapshot. The order of the arguments' items is no matter. ``before``: the ``matches`` of a catalogue of equal classes."""
    ordered = sorted(classes, key=lambda c: c.metadata.name)
    requested = _requests_by_node(pods)
    members: dict[str, list[NodeOffer]] = {c.metadata.name: [] for c in ordered}
    class_of: dict[str, str] = {}
    twice: list[MatchedTwice] = []
    found: dict[str, tuple[Node, Matches]] = {}
    for node in sorted(nodes, key=lambda n: n.name):
        known = (before or {}).get(node.name)
        matches = known[1] if known is not None and (known[0] is node or known[0] == node) else class_of_node(node, ordered)
        found[node.name] = (node, matches)
        if not matches:
            continue
        winner, entry = matches[0]
        class_of[node.name] = winner
        members[winner].append(_offer(node, entry, requested.get(node.name, {})))
        if len(matches) > 1:
            twice.append(MatchedTwice(node.name, winner, tuple(name for name, _ in matches[1:])))
    offers = {c.metadata.name: _class_offer(c, tuple(members[c.metadata.name])) for c in ordered}
    return Catalogue(offers, class_of, tuple(twice), found)


def class_of_node(node: Node, classes: Iterable[AcceleratorClass]) -> Matches:
    """Classes that match the node with the entry that did, the winner first; empty when none does."""
    found: list[tuple[int, str, NodeEntry]] = []
    recognised = recognise_node(node)
    for accelerator in classes:
        entries = [e for e in accelerator.spec.nodes if entry_matches(e, node, recognised)]
        if entries:
            best = max(entries, key=specificity)
            found.append((-specificity(best), accelerator.metadata.name, best))
    found.sort(key=lambda f: f[:2])
    return tuple((name, entry) for _, name, entry in found)


def node_labels(catalogue: Catalogue, nodes: Iterable[Node], label: str, keep: frozenset[str]) -> tuple[NodeLabel, ...]:
    """Nodes whose ``label`` is not what it must be; one that nothing matches keeps a class of ``keep`` (those that cannot be read now)."""
    changes = []
    for node in sorted(nodes, key=lambda n: n.name):
        wanted, observed = catalogue.class_of.get(node.name), node.labels.get(label)
        if wanted != observed and not (wanted is None and observed in keep):
            changes.append(NodeLabel(node.name, wanted))
    return tuple(changes)


def _class_offer(accelerator: AcceleratorClass, nodes: tuple[NodeOffer, ...]) -> ClassOffer:
    empty = ClassOffer(accelerator.metadata.name, accelerator.spec.nodes[0].resource, nodes)
    asked = [n for n in nodes if n.resource == empty.resource]
    return replace(empty, free_devices=sum(empty.devices(n.free) for n in asked), allocatable_devices=sum(empty.devices(n.allocatable) for n in asked))


def _offer(node: Node, entry: NodeEntry, requested: Mapping[str, int]) -> NodeOffer:
    resource = entry.resource
    return NodeOffer(
        node.name,
        resource,
        node.capacity.get(resource, 0),
        node.allocatable.get(resource, 0),
        requested.get(resource, 0),
        node.ready and node.schedulable,
    )


def _requests_by_node(pods: Iterable[Pod]) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for pod in pods:
        if pod.node is None or not pod.holds_devices:
            continue
        on_node = totals.setdefault(pod.node, {})
        for resource, quantity in pod.requests.items():
            on_node[resource] = on_node.get(resource, 0) + quantity
    return totals
