"""The shipped classes on the recorded nodes: which class, and how many devices, as one page to review."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import yaml
from tests.support.golden import GOLDEN, agrees

from modelfleet.api.v1alpha1 import AcceleratorClass
from modelfleet.core.catalogue.offers import build_catalogue
from modelfleet.core.catalogue.recognise import recognise_node
from modelfleet.core.world import Node
from modelfleet.kube.records import node_of

CHECKOUT = Path(__file__).resolve().parents[3]


@cache
def classes() -> list[AcceleratorClass]:
    files = sorted((CHECKOUT / "policies" / "accelerators").glob("*.yaml"))
    return [AcceleratorClass.model_validate(o) for f in files for o in yaml.safe_load_all(f.read_text()) if o]


def test_recorded_nodes() -> None:
    recorded = [yaml.safe_load(f.read_text()) for f in sorted((CHECKOUT / "tests" / "policies" / "nodes").glob("*.yaml"))]
    nodes = [node_of(n) for n in recorded if n["kind"] == "Node"]
    assert len(nodes) > 60
    catalogue = build_catalogue(classes(), nodes, [])
    offers = {n.node: n for offer in catalogue.classes.values() for n in offer.nodes}
    seen = {n: f"{catalogue.class_of[n]}: {o.allocatable} of {o.capacity} {o.resource}" for n, o in sorted(offers.items())}
    twice = [f"{m.node}: {m.winner} before {', '.join(m.losers)}" for m in catalogue.matched_twice]
    # most sources show labels only: what these nodes would be if they offered a unit of one resource, whichever names a class
    told = {n.name: ", ".join(sorted(_by_labels(n))) or "no class" for n in nodes if n.name not in seen}
    agrees(GOLDEN / "catalogue" / "recorded-nodes.out.yaml", {"asRecorded": seen, "byLabelsAlone": told, "matchedTwice": twice})


def _by_labels(node: Node) -> set[str]:
    part = recognise_node(node).part
    entries = [e for c in classes() for e in c.spec.nodes if e.match_labels or (e.hardware and e.hardware.catalogue_id == part)]
    ordinary = {e.resource for e in entries} - {"cpu", "nvidia.com/gpu.shared"}
    offering = [replace(node, capacity={r: 1, **node.capacity}) for r in sorted(ordinary)]
    return {name for n in offering for name in build_catalogue(classes(), [n], []).class_of.values()}


def test_a_class_counts_one_resource_only() -> None:
    # pods of a class ask for one resource; entries that count another would offer room that no pod can take
    assert [c.metadata.name for c in classes() if len({e.resource for e in c.spec.nodes}) > 1] == []
