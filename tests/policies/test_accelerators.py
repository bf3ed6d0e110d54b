"""The catalogue of classes, proven on recorded nodes (`nodes/`) and held against its data (`catalogue/`)."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.apiserver import CHECKOUT, ApiServer

from modelfleet.api.parse import InvalidObject, parse
from modelfleet.api.v1alpha1 import AcceleratorClass
from modelfleet.core.catalogue.models import MEMORY_MIB
from modelfleet.core.catalogue.offers import class_of_node
from modelfleet.core.world import Node
from modelfleet.kube.records import node_of

FOLDER = CHECKOUT / "policies" / "accelerators"
HERE = Path(__file__).parent
CATALOGUE = "modelfleet.dev/catalogue"
# No node in the cluster: a pool reaches them as an endpoint flavor, which names no class.
REACHED_AS_ENDPOINTS = {"cerebras-wse3", "groq-lpu", "sambanova-sn40l"}
# Ids that recorded nodes add to the rows of the catalogue.
FROM_NODES = {
    *("l40", "a30", "v100-16gb", "k80", "gb300", "a100-vgpu", "rtx-pro-6000", "mi355x", "radeon-pro-v520", "vega10", "amd-igpu", "tpu-v4", "trainium1"),
    *("inferentia1", "gaudi2", "flex-170", "intel-igpu", "ascend910", "ascend910b4-1", "ascend310p", "rngd", "rbln-ca22", "qualcomm-ai100", "cpu"),
}
# A unit that is less than the device has a class of its own, so that it is neither priced nor filled as a whole one.
LESS_THAN_A_DEVICE = re.compile(r"-(mig|shared|dpx|cpx|vgpu)\b")


def rows(name: str) -> list[dict[str, str]]:
    with (HERE / name).open(newline="") as lines:
        return list(csv.DictReader(lines))


def raw_classes() -> list[dict[str, Any]]:
    return [o for f in sorted(FOLDER.glob("*.yaml")) for o in yaml.safe_load_all(f.read_text()) if o]


CLASSES = [c for c in (parse(AcceleratorClass, raw) for raw in raw_classes()) if isinstance(c, AcceleratorClass)]
ID = {c.metadata.name: c.metadata.labels[CATALOGUE] for c in CLASSES}
RECORDED = {row["file"]: row for row in rows("nodes/expected.csv")}
UNSEEN = [c for c in yaml.safe_load((CHECKOUT / "tests" / "core" / "catalogue" / "unseen.yaml").read_text()) if "driver" not in c]
OBJECTS = {file: yaml.safe_load((HERE / "nodes" / file).read_text()) for file in RECORDED}
NODES = sorted(file for file, o in OBJECTS.items() if o["kind"] == "Node")


def recorded(file: str) -> Node:
    """The node as recorded. Sources that list only one of capacity and allocatable, or no CPU, are completed: a real node has them."""
    node = node_of(OBJECTS[file])
    return replace(node, capacity={"cpu": 8000, **node.allocatable, **node.capacity}, ready=True)


def shown(file: str) -> Node:
    """The recorded node; where the source shows labels only, with one device of the resource that it is known for."""
    row, node = RECORDED[file], recorded(file)
    known = re.match(r"([a-z.-]+/[A-Za-z0-9.-]+?),? (-|\()", row["resource"])
    return replace(node, capacity={known[1]: 1, **node.capacity}) if known and row["allocatable"] == "unknown" else node


def named(file: str) -> Node:
    """The recorded node, but offering a device of every resource its class is counted by: what is left are its labels."""
    node = recorded(file)
    resources = {e.resource for c in CLASSES if ID[c.metadata.name] == RECORDED[file]["class"] for e in c.spec.nodes}
    return replace(node, capacity={**node.capacity, **{r: max(1, node.capacity.get(r, 0)) for r in resources}})


def winner(node: Node) -> str | None:
    found = class_of_node(node, CLASSES)
    return found[0][0] if found else None


def test_every_object_parses_and_names_are_unique() -> None:
    parsed = [parse(AcceleratorClass, raw) for raw in raw_classes()]
    assert [p for p in parsed if isinstance(p, InvalidObject)] == []
    names = [raw["metadata"]["name"] for raw in raw_classes()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("file", sorted(f.name for f in FOLDER.glob("*.yaml")))
def test_the_api_server_accepts_every_class(apiserver_with_crds: ApiServer, file: str) -> None:
    done = apiserver_with_crds.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", FOLDER / file)
    assert done.returncode == 0, done.stderr


def test_every_row_of_the_catalogue_has_a_class() -> None:
    wanted = {row["id"] for row in rows("catalogue/accelerators.csv")} - REACHED_AS_ENDPOINTS | FROM_NODES
    assert set(ID.values()) == wanted


def test_at_least_eight_vendors_of_accelerators() -> None:
    counted_by_device = {c.spec.vendor for c in CLASSES if all(e.resource != "cpu" for e in c.spec.nodes)}
    assert len(counted_by_device) >= 8


def test_a_class_counts_one_resource() -> None:
    assert [c.metadata.name for c in CLASSES if len({e.resource for e in c.spec.nodes}) != 1] == []


def test_prices_are_those_of_the_catalogue_with_source_and_date() -> None:
    figures = {row["id"]: row for row in rows("catalogue/accelerators.csv")}
    figures |= {
        row["device"]: {"indicative_usd_per_device_hour": row["usd_per_device_hour"], "notes": ""}
        for row in rows("catalogue/prices.csv")
        if row["device"] == "mi355x"
    }
    for c in CLASSES:
        figure, price = figures.get(ID[c.metadata.name]), c.spec.price
        known = figure is not None and figure["indicative_usd_per_device_hour"] not in ("", "unknown")
        if price is None:
            assert not known or LESS_THAN_A_DEVICE.search(c.metadata.name), f"{c.metadata.name}: the catalogue knows a price"
            continue
        assert re.search(r"(AWS|OCI|GCP).*(\d{4}-\d\d-\d\d|date not recorded)", price.source or ""), c.metadata.name
        if figure is None:
            assert c.metadata.name == "cpu"
        elif per_eight := re.search(r"8 vCPU slice \(.*\) ([0-9.]+)", figure["notes"]):
            assert Decimal(price.per_device_hour) == Decimal(per_eight[1]) / 8, c.metadata.name
        else:
            whole = Decimal(figure["indicative_usd_per_device_hour"])
            share = whole / Decimal(price.per_device_hour)
            assert share == 1 or (LESS_THAN_A_DEVICE.search(c.metadata.name) and abs(share - round(share)) < Decimal("0.001")), c.metadata.name


@pytest.mark.parametrize("file", NODES)
def test_labels_name_the_class(file: str) -> None:
    expected = RECORDED[file]["class"]
    found = winner(shown(file) if expected == "unknown" else named(file))
    assert (ID[found] if found else "unknown") == expected


@pytest.mark.parametrize("file", NODES)
def test_a_node_that_offers_no_device_belongs_to_no_class(file: str) -> None:
    node = shown(file)
    offers = [r for r, quantity in node.capacity.items() if quantity > 0 and any(e.resource == r and r != "cpu" for c in CLASSES for e in c.spec.nodes)]
    found = winner(node)
    if found is None:
        assert not offers or RECORDED[file]["class"] == "unknown"
    else:
        assert offers or all(e.resource == "cpu" for c in CLASSES if c.metadata.name == found for e in c.spec.nodes)


@pytest.mark.parametrize("file", [f for f in NODES if RECORDED[f]["sharing"] in ("mig-single", "time-slicing", "vgpu", "partition")])
def test_a_share_of_a_device_is_not_taken_for_the_device(file: str) -> None:
    found = winner(shown(file))
    assert found is None or LESS_THAN_A_DEVICE.search(found)


def test_no_two_classes_of_different_hardware_claim_a_recorded_node() -> None:
    for file in NODES:
        assert len({ID[name] for name, _ in class_of_node(shown(file), CLASSES)}) <= 1, file


def test_a_plain_node_with_an_accelerator_plugin_leaves_the_cpu_class() -> None:
    plain = Node("n", {"kubernetes.io/arch": "amd64"}, {"cpu": 8000}, {"cpu": 8000})
    assert winner(plain) == "cpu"
    labelled = replace(plain, labels={**plain.labels, "nvidia.com/gpu.product": "NVIDIA-L4"}, capacity={"cpu": 8000, "nvidia.com/gpu": 1})
    assert winner(labelled) == "nvidia-l4"


def test_newer_cpus_win_over_the_plain_class() -> None:
    nfd = "feature.node.kubernetes.io/cpu-"
    turin = {f"{nfd}model.vendor_id": "AMD", f"{nfd}model.family": "26", f"{nfd}cpuid.AVX512BF16": "true"}
    xeon = {f"{nfd}cpuid.AMXBF16": "true", f"{nfd}cpuid.AMXINT8": "true", f"{nfd}cpuid.AMXFP16": "true"}
    plain = Node("n", {"kubernetes.io/arch": "amd64"}, {"cpu": 8000}, {"cpu": 8000})
    assert winner(replace(plain, labels={**plain.labels, **turin})) == "amd-epyc-turin"
    assert winner(replace(plain, labels={**plain.labels, **xeon})) == "intel-xeon6-amx"
    host = {**plain.labels, **xeon, "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert winner(replace(plain, labels=host, capacity={"cpu": 8000, "nvidia.com/gpu": 8})) == "nvidia-h100-80gb"


@pytest.mark.parametrize("page", ["docs/recognise-hardware.md", "policies/accelerators/README.md"])
def test_the_examples_of_the_pages_are_entries_of_a_class(page: str) -> None:
    blocks = [yaml.safe_load(b) for b in re.findall(r"```yaml\n(.*?)```", (CHECKOUT / page).read_text(), re.DOTALL)]
    assert blocks
    for block in blocks:
        whole = block if "kind" in block else {"metadata": {"name": "c"}, "spec": {"vendor": "V", "device": "D", **block}}
        parsed = parse(AcceleratorClass, whole)
        assert isinstance(parsed, AcceleratorClass), parsed
        assert all(e.hardware for e in parsed.spec.nodes)


def test_every_part_that_a_class_asks_for_is_one_that_nodes_are_recognised_as() -> None:
    without_memory = {"cpu", "graviton4", "xeon6-amx", "epyc-turin", "amd-igpu", "intel-igpu", "a100-vgpu", "k80", "qualcomm-ai100"}
    asked = {e.hardware.catalogue_id for c in CLASSES for e in c.spec.nodes if e.hardware}
    assert asked - without_memory <= set(MEMORY_MIB)
    assert {ID[c.metadata.name] for c in CLASSES for e in c.spec.nodes if e.hardware and e.hardware.catalogue_id != ID[c.metadata.name]} == set()


@pytest.mark.parametrize("case", UNSEEN, ids=[c["name"] for c in UNSEEN])
def test_a_node_nobody_recorded_finds_the_class_of_its_part_or_none(case: dict[str, Any]) -> None:
    node = Node("n", {k: str(v) for k, v in case.get("labels", {}).items()}, {"cpu": 8000, **_whole(case)}, {})
    found = winner(node)
    assert found is None or ID[found] == case["expect"][0] or "huawei" in found


def _whole(case: dict[str, Any]) -> dict[str, int]:
    return {k: int(v) for k, v in case.get("capacity", {}).items() if str(v).isdecimal()}
