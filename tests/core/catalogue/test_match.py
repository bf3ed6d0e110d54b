"""Label requirements, one row each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.builders import GPU, a_class, a_foreign_pod, a_node

from modelfleet.api.v1alpha1.acceleratorclass import LabelRequirement, NodeEntry
from modelfleet.core.catalogue.match import entry_matches, requirement_holds, specificity
from modelfleet.core.catalogue.offers import build_catalogue, node_labels
from modelfleet.core.plan import NodeLabel
from modelfleet.core.render.labels import ACCELERATOR_CLASS
from modelfleet.core.world import Node

MIG = "nvidia.com/mig-"
LABELS = {"product": "NVIDIA-H100-80GB-HBM3", "memory": "81559", "empty": "", "negative": "-5"}


@pytest.mark.parametrize(
    ("key", "operator", "values", "holds"),
    [
        ("product", "In", ["NVIDIA-H100-80GB-HBM3"], True),
        ("product", "In", ["other"], False),
        ("absent", "In", ["x"], False),
        ("product", "NotIn", ["other"], True),
        ("product", "NotIn", ["NVIDIA-H100-80GB-HBM3"], False),
        ("absent", "NotIn", ["x"], True),
        ("empty", "Exists", None, True),
        ("absent", "Exists", None, False),
        ("absent", "DoesNotExist", None, True),
        ("empty", "DoesNotExist", None, False),
        ("product", "Matches", ["NVIDIA-H100-SXM*", "NVIDIA-H100-80GB*"], True),
        ("product", "Matches", ["nvidia-h100*"], False),
        ("product", "Matches", ["H100"], False),
        ("absent", "Matches", ["*"], False),
        ("memory", "Gte", ["81559"], True),
        ("memory", "Gte", ["81560"], False),
        ("memory", "Lt", ["81560"], True),
        ("memory", "Lt", ["81559"], False),
        ("empty", "Lt", ["1"], False),
        ("negative", "Lt", ["1"], False),
        ("absent", "Lt", ["1"], False),
    ],
)
def test_requirement(key: str, operator: str, values: list[str] | None, holds: bool) -> None:
    requirement = LabelRequirement.model_validate({"key": key, "operator": operator, "values": values})
    assert requirement_holds(requirement, LABELS) is holds


def test_a_resource_that_is_there_with_quantity_zero_does_not_match() -> None:
    entry = NodeEntry(resource=GPU)
    assert not entry_matches(entry, Node("n", {}, {GPU: 0}, {}))
    assert entry_matches(entry, Node("n", {}, {GPU: 1}, {}))


def test_counts() -> None:
    nodes = [a_node("a", "h100", 8, allocatable=7), a_node("b", "h100", 4), a_node("c", "h100", 2, schedulable=False), a_node("z", "other", 9)]
    offer = build_catalogue([a_class("h100")], nodes, [a_foreign_pod("a", 3), a_foreign_pod("c"), a_foreign_pod("z")]).classes["h100"]
    assert [n.free for n in offer.nodes] == [4, 4, 0]
    assert (offer.free_devices, offer.allocatable_devices) == (8, 13)


def test_pods_beyond_what_a_node_offers_leave_nothing_free_and_not_less() -> None:
    offer = build_catalogue([a_class("h100")], [a_node("a", "h100", 4, allocatable=1)], [a_foreign_pod("a", 3)]).classes["h100"]
    assert offer.free_devices == 0


def test_labels_are_only_what_must_change() -> None:
    nodes = [
        a_node("right", "h100"),
        a_node("new", "h100", labelled=False),
        a_node("gone", "h100", 0),
        Node("wrong", {"device": "h100", ACCELERATOR_CLASS: "l4"}, {GPU: 1}, {}),
    ]
    nodes += [Node("left", {ACCELERATOR_CLASS: "h100"}, {}, {}), Node("kept", {ACCELERATOR_CLASS: "unreadable"}, {}, {}), Node("plain", {}, {}, {})]
    catalogue = build_catalogue([a_class("h100")], nodes, [])
    changes = node_labels(catalogue, nodes, ACCELERATOR_CLASS, frozenset({"unreadable"}))
    assert changes == (NodeLabel("left", None), NodeLabel("new", "h100"), NodeLabel("wrong", "h100"))


def test_the_more_specific_class_wins_and_a_tie_goes_by_name() -> None:
    node = Node("n", {"device": "x", "zone": "1"}, {GPU: 1}, {GPU: 1})
    broad, narrow, twin = a_class("a", labels={}), a_class("z", labels={"device": "x"}), a_class("y", labels={"zone": "1"})
    catalogue = build_catalogue([narrow, broad, twin], [node], [])
    assert catalogue.class_of == {"n": "y"}
    assert [(m.winner, m.losers) for m in catalogue.matched_twice] == [("y", ("z", "a"))]


def entry(resource: str = GPU, **fields: object) -> NodeEntry:
    return NodeEntry.model_validate({"resource": resource, **fields})


MIXED = Node(
    "n", {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.count": "1", "nvidia.com/mig.strategy": "mixed"}, {GPU: 0, f"{MIG}1g.10gb": 2}, {}
)
SLICED = Node("n", {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"}, {GPU: 7}, {})
WHOLE = Node("n", {"cloud.google.com/gke-accelerator": "nvidia-h100-mega-80gb"}, {GPU: 8}, {})


@pytest.mark.parametrize(
    ("node", "resource", "hardware", "matches"),
    [
        (WHOLE, GPU, {"catalogueId": "h100-sxm"}, True),
        (WHOLE, GPU, {"catalogueId": "h100-pcie"}, False),
        (SLICED, GPU, {"catalogueId": "h100-sxm"}, False),
        (SLICED, GPU, {"catalogueId": "h100-sxm", "unit": "MigSlice"}, True),
        (SLICED, GPU, {"catalogueId": "h100-sxm", "unit": "MigSlice", "profile": "1G.10GB"}, True),
        (SLICED, GPU, {"catalogueId": "h100-sxm", "unit": "MigSlice", "profile": "2g.20gb"}, False),
        (MIXED, GPU, {"catalogueId": "h100-sxm"}, False),
        (MIXED, f"{MIG}1g.10gb", {"catalogueId": "h100-sxm"}, False),
        (MIXED, f"{MIG}1g.10gb", {"catalogueId": "h100-sxm", "unit": "MigSlice", "profile": "1g.10gb"}, True),
    ],
)
def test_hardware(node: Node, resource: str, hardware: dict[str, str], matches: bool) -> None:
    assert entry_matches(entry(resource, hardware=hardware), node) is matches


def test_hardware_and_labels_must_both_hold() -> None:
    both = entry(hardware={"catalogueId": "h100-sxm"}, matchLabels={"zone": "a"})
    assert not entry_matches(both, WHOLE)
    assert entry_matches(both, replace(WHOLE, labels={**WHOLE.labels, "zone": "a"}))


def test_hardware_is_one_requirement_and_its_profile_another() -> None:
    assert specificity(entry()) == 0
    assert specificity(entry(hardware={"catalogueId": "t4"})) == 1
    assert specificity(entry(hardware={"catalogueId": "t4", "unit": "MigSlice", "profile": "1g.5gb"}, matchLabels={"a": "b"})) == 3
