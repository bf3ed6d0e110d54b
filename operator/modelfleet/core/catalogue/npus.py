"""What a Node says of accelerators that are no GPUs of NVIDIA or AMD: TPU, Neuron, Intel, Gaudi, Ascend, RNGD, ATOM, Cloud AI 100.

Decided here, vendor by vendor: part, physical devices and memory, from the vendor's labels and resources. A resource name that says the
vendor only gives a count and no part. Not decided here: what a name, a PCI id or a machine type means.
"""

from __future__ import annotations

import math
import re
from typing import Final

from .facts import NodeFacts, Recognition, count_of
from .instances import Instance
from .models import by_pci, memory_of, read_name, vendor_of
from .nvidia import MOST_DEVICES

__all__ = ["read_ascend", "read_furiosa", "read_gaudi", "read_intel", "read_neuron", "read_qualcomm", "read_rebellions", "read_tpu"]

_TPU: Final = "cloud.google.com/gke-tpu-accelerator"
_HOST: Final = 4
"""TPU chips on a host of a slice of several hosts, in every generation."""

_CORES_PER_CHIP: Final = {"inferentia1": 4, "inferentia2": 2, "trainium1": 2}
"""Neuron cores; Trainium2 and later have four or eight by the logical-core setting, which the node does not show."""

_INTEL_ID: Final = re.compile(r"gpu\.intel\.com/device-id\.(?P<kind>[0-9a-f]{4})-(?P<device>[0-9a-f]{4})\.(?P<what>count|present)", re.IGNORECASE)
_GAUDI_PCI: Final = re.compile(r"feature\.node\.kubernetes\.io/pci-(?:[0-9a-f]{4}_)?1da3(?:_(?P<device>[0-9a-f]{4}))?\.present", re.IGNORECASE)
_ASCEND_SHARE: Final = re.compile(r"(?P<base>huawei\.com/.+?)-(memory|core|\d+c(\.\d+cpu)?(\.\d+g)?(\.n?dvpp)?)$", re.IGNORECASE)
_ASCEND_CHIP: Final = re.compile(r"ascend910b\d")
_FURIOSA_CORES: Final = re.compile(r"furiosa\.ai/(?:warboy|rngd)-(?P<cores>\d)core(?:\..*)?")
_RNGD_CORES: Final = 8


def read_tpu(facts: NodeFacts, machine: Instance) -> Recognition | None:
    """Chips on this host. The topology is that of the whole slice: beyond one host it says only that a host has four."""
    label, offered = facts.label(_TPU), facts.total(r"google\.com/tpu")
    part = read_name(label).part
    part = part if vendor_of(part) == "Google" else ""
    if not label and not any(k.startswith("google.com/tpu") for k in (*facts.amounts, *facts.taints)):
        return None
    chips = math.prod(int(n) for n in re.findall(r"\d{1,5}", facts.label("cloud.google.com/gke-tpu-topology")))
    counted = facts.number("cloud.google.com/gke-accelerator-count") or offered or (machine.devices if machine.spelled else None)
    devices = counted or _chips_on_host(chips if facts.label("cloud.google.com/gke-tpu-topology") else 0, label)
    several_hosts = chips > _HOST and (devices is None or chips > devices)
    return Recognition(part, devices, memory_of(part), "SliceHost" if several_hosts else "Device")


def _chips_on_host(chips: int, label: str) -> int | None:
    if chips <= _HOST:
        return chips or None
    if chips == 2 * _HOST and re.search(r"v5-?lite|v5e|v6e", label):
        return chips if "device" in label else None  # one host of eight or two of four: the topology is the same
    return _HOST


def read_neuron(facts: NodeFacts, machine: Instance) -> Recognition | None:
    """``neuron`` (once ``neurondevice``) counts chips; the name of a first generation came without its number."""
    name = facts.ending("/instance-accelerator-name") or _generic(facts, "AWS")
    part = read_name(name).part
    if vendor_of(part) != "AWS" and not any(re.match(r"aws\.amazon\.com/neuron", k) for k in (*facts.amounts, *facts.taints)):
        return None
    part = part if vendor_of(part) == "AWS" else ""
    if part in ("inferentia", "trainium"):
        part = machine.part if machine.part.startswith(part) else f"{part}1"
    part = part or (machine.part if vendor_of(machine.part) == "AWS" else "")
    devices = facts.total(r"aws\.amazon\.com/neuron") or facts.total(r"aws\.amazon\.com/neurondevice") or _accelerators(facts)
    cores, per_chip = facts.total(r"aws\.amazon\.com/neuroncore"), _CORES_PER_CHIP.get(part)
    if not devices and cores and per_chip and cores % per_chip == 0:
        devices = cores // per_chip
    return Recognition(part, devices or None, memory_of(part))


def read_intel(facts: NodeFacts, _machine: Instance) -> Recognition | None:
    """Integrated GPUs carry the same labels as cards, and are told by the device id."""
    ids = {(m["device"].lower()) for m in map(_INTEL_ID.fullmatch, facts.labels) if m}
    named = read_name(facts.label("gpu.intel.com/product")).part or _generic(facts, "Intel")
    if not named or vendor_of(named) != "Intel":
        found = {by_pci("8086", device) for device in ids}
        found = (found - {"intel-igpu"}) or found
        named = found.pop() if len(found) == 1 else ""
    if not named and not any(k.startswith("gpu.intel.com/") for k in (*facts.labels, *facts.amounts)):
        return None
    counted = sum(count_of(v) or 0 for k, v in facts.labels.items() if (m := _INTEL_ID.fullmatch(k)) and m["what"].lower() == "count")
    offered = facts.total(r"gpu\.intel\.com/(i915|xe)")
    devices = facts.number("gpu.intel.com/device.count") or counted or (offered if offered <= MOST_DEVICES else 0)
    return Recognition(named, devices or None, memory_of(named), "Share" if devices and offered > devices else "Device")


def read_gaudi(facts: NodeFacts, machine: Instance) -> Recognition | None:
    """The resource is the same for every generation: a PCI device id, a name that a person wrote, or the machine type tells it."""
    pci = [m for m in map(_GAUDI_PCI.fullmatch, sorted(facts.labels)) if m]
    name = read_name(facts.ending("/instance-accelerator-name")).part or _generic(facts, "Intel")
    offered = facts.total(r"habana\.ai/gaudi\d?")
    if not pci and not name.startswith("gaudi") and not any(k.startswith("habana.ai/") for k in (*facts.amounts, *facts.labels, *facts.taints)):
        return None
    found = {by_pci("1da3", m["device"]) for m in pci if m["device"]} - {""}
    part = found.pop() if len(found) == 1 else name if name in ("gaudi1", "gaudi2", "gaudi3") else ""
    part = part or (machine.part if machine.part.startswith("gaudi") else "")
    return Recognition(part, offered or _accelerators(facts) or None, memory_of(part))


def read_ascend(facts: NodeFacts, _machine: Instance) -> Recognition | None:
    """The resource is more exact than the label. One that names the chip's variant comes from a plugin that divides chips: its count is of shares."""
    resources = [(name, quantity) for name, quantity in facts.resources(r"(?i)huawei\.com/ascend.*") if not _ASCEND_SHARE.match(name)]
    label = next((v for v in facts.written_by_people() if "ascend" in v.lower()), "")
    sign = any(k.lower().startswith("huawei.com/ascend") or k.lower().startswith("huawei.com/npu") for k in (*facts.amounts, *facts.labels, *facts.taints))
    if not label and not sign:
        return None
    offered = [r for r in resources if r[1] > 0] or resources
    names = {read_name(name.partition("/")[2]).part for name, _ in offered} or {read_name(label).part}
    part = names.pop() if len(names) == 1 else ""
    shared = any(_ASCEND_SHARE.match(k) for k in facts.amounts) or bool(_ASCEND_CHIP.match(part))
    total = sum(quantity for _, quantity in offered)
    return Recognition(part, total if 0 < total <= MOST_DEVICES and not shared else None, memory_of(part), "Share" if shared else "Device")


def read_furiosa(facts: NodeFacts, _machine: Instance) -> Recognition | None:
    """FuriosaAI writes the product into a label and into the resource."""
    offered = facts.total(r"(?:alpha\.|beta\.)?furiosa\.ai/(rngd|warboy|npu)(-max|-s)?")
    names = [facts.label("furiosa.ai/npu.product"), facts.label("furiosa.ai/npu.family"), _generic(facts, "FuriosaAI")]
    names += [k.partition("/")[2] for k, v in sorted(facts.amounts.items()) if "furiosa.ai/" in k and v > 0]
    if not any(names) and not any("furiosa.ai/" in k for k in (*facts.labels, *facts.amounts, *facts.taints)):
        return None
    part = next((p for p in (read_name(n).part for n in names) if vendor_of(p) == "FuriosaAI"), "")
    cores = sum(int(m["cores"]) * v for k, v in facts.amounts.items() if (m := _FURIOSA_CORES.fullmatch(k)))
    devices = facts.number("furiosa.ai/npu.count") or offered or (cores // _RNGD_CORES if cores % _RNGD_CORES == 0 else 0)
    return Recognition(part, devices or None, memory_of(part), "Partition" if cores and not offered else "Device")


def read_rebellions(facts: NodeFacts, _machine: Instance) -> Recognition | None:
    """The family (ATOM) has cards of several memories: only the product is a part."""
    name = facts.label("rebellions.ai/npu.product") or _generic(facts, "Rebellions")
    offered = facts.total(r"rebellions\.ai/(ATOM|REBEL|npu).*")
    if not name and not any(k.startswith("rebellions.ai/") for k in (*facts.labels, *facts.amounts, *facts.taints)):
        return None
    part = read_name(name).part
    return Recognition(part if vendor_of(part) == "Rebellions" else "", facts.number("rebellions.ai/npu.count") or offered or None, memory_of(part))


def read_qualcomm(facts: NodeFacts, _machine: Instance) -> Recognition | None:
    """The plugin's label and resource name the vendor only."""
    part = read_name(facts.ending("/instance-accelerator-name")).part or _generic(facts, "Qualcomm")
    part = part if vendor_of(part) == "Qualcomm" else ""
    if not part and not any(k.startswith("qualcomm.com/") for k in (*facts.labels, *facts.amounts, *facts.taints)):
        return None
    return Recognition(part, facts.total(r"qualcomm\.com/qaic") or _accelerators(facts) or None, memory_of(part))


def _accelerators(facts: NodeFacts) -> int | None:
    return count_of(facts.ending("/instance-accelerator-count")) or None


def _generic(facts: NodeFacts, vendor: str) -> str:
    """The part of this vendor that a label of no vendor names."""
    return next((p for p in (read_name(v).part for v in facts.written_by_people()) if vendor_of(p) == vendor), "")
