"""What a Node or ResourceSlice has: every recorded object, and laws that hold for any."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings, strategies as st

from modelfleet.core.catalogue.facts import UNKNOWN, Malformed, Recognition, mebibytes
from modelfleet.core.catalogue.instances import NO_INSTANCE, read_instance
from modelfleet.core.catalogue.models import AMBIGUOUS, MEMORY_MIB, read_name, vendor_of
from modelfleet.core.catalogue.recognise import recognise, recognise_node
from modelfleet.core.world import Node
from modelfleet.kube.records import node_of

NODES = Path(__file__).resolve().parents[2] / "policies" / "nodes"
EXPECTED = {row["file"]: row for row in csv.DictReader((NODES / "expected.csv").read_text().splitlines())}
RECORDED: dict[str, dict[str, Any]] = {file: yaml.safe_load((NODES / file).read_text()) for file in EXPECTED}
UNSEEN = yaml.safe_load((Path(__file__).parent / "unseen.yaml").read_text())
TOLERANCE = 0.08

texts = st.text(st.characters(codec="ascii", categories=("L", "N"), include_characters="-._"), max_size=24)
unrelated_keys = st.builds(
    "{}.example.org/{}".format, st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.from_regex(r"(zone|team|rack|tier)[a-z]{0,3}", fullmatch=True)
)


def as_row(found: Recognition) -> tuple[str, str]:
    return found.part, UNKNOWN if found.devices is None else str(found.devices)


def or_refusal(raw: dict[str, Any]) -> Recognition | str:
    try:
        return recognise(raw)
    except Malformed as error:
        return str(error)


@pytest.mark.parametrize("file", sorted(EXPECTED))
def test_every_recorded_object(file: str) -> None:
    row, found = EXPECTED[file], recognise(RECORDED[file])
    assert as_row(found) == (row["class"], row["devices"])
    if row["memory_gib"] == UNKNOWN:
        assert found.memory_gib is None
    else:
        assert found.memory_gib is not None
        assert abs(float(found.memory_gib) - float(row["memory_gib"])) <= TOLERANCE * float(row["memory_gib"])


def test_all_objects_were_recorded() -> None:
    assert len(EXPECTED) == 86 == len(list(NODES.glob("*.yaml")))


@pytest.mark.parametrize("file", sorted(f for f, o in RECORDED.items() if o["kind"] == "Node"))
def test_the_operator_reads_a_node_as_the_command_does(file: str) -> None:
    node = node_of(RECORDED[file])
    if "kubernetes.io/arch" in node.labels or EXPECTED[file]["class"] != "cpu":
        assert recognise_node(node) == recognise(RECORDED[file])


@given(st.sampled_from(sorted(EXPECTED)), st.randoms(use_true_random=False), st.dictionaries(unrelated_keys, texts, max_size=5))
def test_order_and_unrelated_labels_do_not_matter(file: str, shuffle: Any, extra: dict[str, str]) -> None:
    raw = json.loads(json.dumps(RECORDED[file]))
    if raw["kind"] == "Node":
        labels = list({**extra, **raw["metadata"].get("labels", {})}.items())
        shuffle.shuffle(labels)
        status = {k: dict(sorted(v.items(), reverse=True)) for k, v in raw.get("status", {}).items()}
        # a label more makes no CPU node out of one that says nothing: its architecture would
        raw = {**raw, "metadata": {**raw["metadata"], "labels": dict(labels)}, "status": status}
    else:
        shuffle.shuffle(raw["spec"]["devices"])
    assert recognise(raw) == recognise(RECORDED[file])


@given(
    st.sampled_from([c for c in UNSEEN if any(k == "nvidia.com/gpu.product" for k in c.get("labels", {}))]), st.sampled_from([str.lower, str.upper, str.title])
)
def test_the_case_of_a_product_name_does_not_matter(case: dict[str, Any], change: Any) -> None:
    def read(product: str) -> Recognition:
        labels = {**case["labels"], "nvidia.com/gpu.product": product}
        return recognise({"kind": "Node", "metadata": {"labels": labels}, "status": {"capacity": case.get("capacity", {})}})

    product = case["labels"]["nvidia.com/gpu.product"]
    assert read(change(product)) == read(product)


@given(st.sampled_from(sorted(p for p in MEMORY_MIB if vendor_of(p) == "NVIDIA")), st.integers(1, 8), st.integers(2, 48))
def test_time_slices_are_divided_back(part: str, cards: int, replicas: int) -> None:
    labels = {"nvidia.com/gpu.product": f"NVIDIA-{part}-SHARED", "nvidia.com/gpu.replicas": str(replicas)}
    told = recognise({"kind": "Node", "metadata": {"labels": labels}, "status": {"capacity": {"nvidia.com/gpu": cards * replicas}}})
    assert (told.devices, told.unit) == (cards, "TimeSlice")


@given(st.sampled_from(["dpx", "qpx", "cpx"]), st.integers(1, 8), st.sampled_from(["mi300x", "mi325x", "mi355x"]))
def test_partitions_are_divided_back(mode: str, cards: int, part: str) -> None:
    share = {"dpx": 2, "qpx": 4, "cpx": 8}[mode]
    labels = {"amd.com/gpu.product-name": f"AMD_Instinct_{part.upper()}_OAM", "amd.com/gpu.compute-memory-partition": f"{mode}_nps1"}
    told = recognise({"kind": "Node", "metadata": {"labels": labels}, "status": {"allocatable": {"amd.com/gpu": str(cards * share)}}})
    assert (told.part, told.devices, told.profile) == (part, cards, mode.upper())


@given(st.dictionaries(unrelated_keys, texts, max_size=4), st.integers(1, 64))
def test_a_vendor_nobody_knows_is_unknown(labels: dict[str, str], quantity: int) -> None:
    raw = {"kind": "Node", "metadata": {"labels": {**labels, "kubernetes.io/arch": "amd64"}}, "status": {"capacity": {"vendor.example/npu": str(quantity)}}}
    assert recognise(raw) == Recognition()


scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8)
keys = st.sampled_from(
    [
        *("nvidia.com/gpu.product", "nvidia.com/gpu.count", "nvidia.com/gpu.memory", "nvidia.com/gpu.replicas", "amd.com/gpu.vram", "amd.com/gpu.device-id"),
        *("cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-tpu-topology", "node.kubernetes.io/instance-type", "gpu.intel.com/device.count"),
    ]
)
resources = st.sampled_from(["nvidia.com/gpu", "nvidia.com/gpu.shared", "amd.com/gpu", "google.com/tpu", "huawei.com/Ascend910", "furiosa.ai/rngd-2core.12gb"])


@settings(max_examples=300)
@given(st.dictionaries(keys, anything, max_size=6), st.dictionaries(resources, anything, max_size=4), anything, anything)
def test_garbage_is_unknown_or_named_and_never_a_crash(labels: dict[str, Any], amounts: dict[str, Any], spec: Any, info: Any) -> None:
    raw = {"kind": "Node", "metadata": {"labels": labels}, "spec": spec, "status": {"capacity": amounts, "nodeInfo": info}}
    found = or_refusal(raw)
    if isinstance(found, str):
        assert ":" in found
    else:
        assert found.devices is None or found.devices >= 0
        assert found.memory_mib is None or found.memory_mib > 0


@settings(max_examples=300)
@given(st.sampled_from(["gpu.nvidia.com", "gpu.amd.com", "tpu.google.com", "gaudi.intel.com", "dra.net"]), anything, st.lists(anything, max_size=3), anything)
def test_garbage_in_a_slice_too(driver: str, pool: Any, devices: list[Any], attributes: Any) -> None:
    listed = [*devices, {"name": "d", "attributes": attributes, "capacity": attributes}]
    found = or_refusal({"kind": "ResourceSlice", "spec": {"driver": driver, "pool": pool, "devices": listed}})
    assert found.startswith("spec.") if isinstance(found, str) else found.unit


@pytest.mark.parametrize(
    ("status", "field"),
    [
        ({"capacity": {"nvidia.com/gpu": "lots"}}, 'status.capacity["nvidia.com/gpu"]'),
        ({"allocatable": {"amd.com/gpu": "-1"}}, 'status.allocatable["amd.com/gpu"]'),
        ({"capacity": {"google.com/tpu": "1500m"}}, 'status.capacity["google.com/tpu"]'),
        ({"capacity": "8"}, "status.capacity"),
    ],
)
def test_a_quantity_that_is_none_is_named_with_its_cure(status: dict[str, Any], field: str) -> None:
    with pytest.raises(Malformed) as told:
        recognise({"kind": "Node", "metadata": {}, "status": status})
    assert str(told.value).startswith(field)
    assert "write " in str(told.value)


def test_other_kinds_are_refused() -> None:
    with pytest.raises(Malformed, match="give a Node or a ResourceSlice"):
        recognise({"kind": "Pod"})


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        *(("81559", 81559), ("16106127360", 15360), ("191G", 191 * 1024), ("192", 192 * 1024), ("80GB", 81920), ("83516416", 81559), ("81559MiB", 81559)),
        *(("81559Mi", 81559), ("79.5Gi", 81408), ("0", None), ("", None), ("many", None), ("-4", None), ("8GG", None)),
    ],
)
def test_memory_in_every_unit(text: str, mib: int | None) -> None:
    assert mebibytes(text) == mib


def test_a_label_that_says_false_speaks_of_nothing() -> None:
    plain = {"kubernetes.io/arch": "amd64", "nvidia.com/gpu.present": "false", "accelerator": "none"}
    assert recognise({"kind": "Node", "metadata": {"labels": plain}}).part == "cpu"
    assert recognise({"kind": "Node", "metadata": {"labels": {"kubernetes.io/arch": "amd64", "node-role.kubernetes.io/gpu": ""}}}) == Recognition()


def test_a_slice_that_is_the_whole_card_is_a_device() -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-7g.80gb", "nvidia.com/gpu.count": "4", "nvidia.com/gpu.memory": "80384"}
    assert recognise({"kind": "Node", "metadata": {"labels": labels}}) == Recognition("h100-sxm", 4, 80384, "MigSlice", "7g.80gb")


def test_names_that_begin_alike_stay_apart() -> None:
    for name in ("L4", "L40", "L40S", "A10", "A10G", "A100-SXM4-40GB", "T4", "T4G", "GB200", "B200"):
        assert read_name(f"NVIDIA-{name}").part != ""
    assert len({read_name(f"NVIDIA-{n}").part for n in ("L4", "L40", "L40S", "A10", "A10G", "T4", "T4G", "GB200", "B200")}) == 9
    assert read_name("NVIDIA-L4000").part == read_name("NVIDIA-H1000").part == ""


def test_no_machine_type_names_a_part_of_several_sizes() -> None:
    for name in ("gx2-8x64x1v100", "gpu_8x_a100_80gb_sxm4", "gpu-a100x8-640gb", "p4d.24xlarge", "Standard_ND96asr_v4", "a2-highgpu-1g", "BM.GPU4.8"):
        assert read_instance(name).part not in AMBIGUOUS
    assert read_instance("t3.large") == read_instance("my-own-machine") == NO_INSTANCE


def test_a_node_is_read_anew_when_its_labels_change() -> None:
    node = Node("n", {"nvidia.com/gpu.product": "NVIDIA-L4"}, {"nvidia.com/gpu": 1}, {})
    assert recognise_node(node).part == "l4"
    assert recognise_node(replace(node, labels={"nvidia.com/gpu.product": "Tesla-T4"})).part == "t4"
    assert recognise_node(replace(node, capacity={"nvidia.com/gpu": 2})).devices == 2


@pytest.mark.parametrize(
    "register",
    [
        "GPU-a,10,40960,100,NVIDIA-NVIDIA A100-PCIE-40GB,0,true:GPU-b,10,40960,100,NVIDIA-NVIDIA A100-PCIE-40GB,0,true:",
        json.dumps([{"id": f"GPU-{i}", "count": 10, "devmem": 40960, "type": "NVIDIA-NVIDIA A100-PCIE-40GB"} for i in "ab"]),
    ],
)
def test_hami_tells_its_cards_in_an_annotation(register: str) -> None:
    metadata = {"labels": {"gpu": "on"}, "annotations": {"hami.io/node-nvidia-register": register}}
    told = recognise({"kind": "Node", "metadata": metadata, "status": {"capacity": {"nvidia.com/gpu": "20"}}})
    assert told == Recognition("a100-40gb", 2, 40960, "Share")
