"""What a Node says of AMD GPUs.

Decided here: part, physical devices and memory from AMD's node labeller (new labels, and both shapes of the old ones) and from platforms.
A partition (DPX, TPX, QPX, CPX) is less than a device: it halves ``vram`` and multiplies the resource, and is divided back. Memory is
what the node shows per unit. Not decided here: which id or name is which part (``models.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from .facts import NodeFacts, Recognition, count_of, mebibytes
from .instances import Instance
from .models import by_pci, memory_of, read_name, vendor_of
from .nvidia import MOST_DEVICES

__all__ = ["PARTITIONS", "partition_of", "read_amd"]

PARTITIONS: Final = {"spx": 1, "dpx": 2, "tpx": 3, "qpx": 4, "cpx": 8}
"""Partitions of one device per mode; MI300A and MI308X have fewer dies, and so fewer in CPX."""

_CPX: Final = {"mi300a": 6, "mi308x": 4}
_GPU: Final = r"amd\.com/gpu"
_MODE: Final = re.compile(r"(?:^|[^a-z])(spx|dpx|tpx|qpx|cpx)(?:[^a-z]|$)", re.IGNORECASE)
_MODE_RESOURCE: Final = r"amd\.com/(spx|dpx|tpx|qpx|cpx)_nps\d"
_LABEL: Final = re.compile(r"(?:beta\.)?amd\.com/(?:gpu\.)?(?P<what>[a-z-]+?)(?:\.(?P<value>[A-Za-z0-9_.-]+))?")
_PCI: Final = re.compile(r"feature\.node\.kubernetes\.io/pci-(?P<kind>0302|0380|1200)_1002(?:_(?P<device>[0-9a-f]{4}))?\.present", re.IGNORECASE)


def read_amd(facts: NodeFacts, _machine: Instance) -> Recognition | None:
    """The node's AMD GPUs; None where nothing on it speaks of any."""
    parts = sorted({p for p in _parts(facts) if p})
    discrete = [p for p in parts if p != "amd-igpu"] or parts
    if not parts and not _signs(facts):
        return None
    part = discrete[0] if len(discrete) == 1 else ""
    vram = mebibytes(_value(facts, "vram")) or (mebibytes(facts.ending("/instance-gpu-memory")) if _by_platform(facts) else None)
    mode = _mode(facts, part, vram)
    whole = memory_of(part)
    memory = vram or whole
    per_device = partition_of(mode, part)
    return Recognition(part, _devices(facts, per_device), memory, "Partition" if per_device > 1 else "Device", mode.upper() if per_device > 1 else "")


def partition_of(mode: str, part: str) -> int:
    """Partitions of one device of this part in this mode (``dpx``); 1 for none."""
    return _CPX.get(part, PARTITIONS["cpx"]) if mode == "cpx" else PARTITIONS.get(mode, 1)


def _parts(facts: NodeFacts) -> Iterator[str]:
    """Every part that something names; the first source that names any is the one that counts."""
    sources = (_by_product, _by_device_id, _by_platform, _by_generic, _by_feature_discovery)
    for source in sources:
        found = [p for p in source(facts) if p]
        if found:
            yield from found
            return


def _by_product(facts: NodeFacts) -> list[str]:
    return [p for p in (read_name(v).part for v in _values(facts, "product-name")) if vendor_of(p) == "AMD"]


def _by_device_id(facts: NodeFacts) -> list[str]:
    return [by_pci("1002", v) for v in _values(facts, "device-id")]


def _by_platform(facts: NodeFacts) -> list[str]:
    part = read_name(facts.ending("/instance-gpu-name", "/sku-gpu-name")).part
    return [part] if vendor_of(part) == "AMD" else []


def _by_generic(facts: NodeFacts) -> list[str]:
    names = [read_name(v).part for v in facts.written_by_people()]
    return [p for p in names if vendor_of(p) == "AMD"]


def _by_feature_discovery(facts: NodeFacts) -> list[str]:
    return [by_pci("1002", m["device"]) for m in map(_PCI.fullmatch, facts.labels) if m and m["device"]]


def _signs(facts: NodeFacts) -> bool:
    keys = (*facts.labels, *facts.amounts, *facts.taints)
    if any(k.startswith(("amd.com/", "beta.amd.com/")) or _PCI.fullmatch(k) for k in keys):
        return True
    makers = (facts.ending("/instance-gpu-manufacturer", "/sku-gpu-manufacturer"), facts.ending("/accelerator"), facts.label("accelerator"))
    return any(m.lower() == "amd" for m in makers)


def _values(facts: NodeFacts, what: str) -> list[str]:
    """Values of one of AMD's labels, whether they stand in the value or, counted, in the key."""
    found = set()
    for key, value in facts.labels.items():
        match = _LABEL.fullmatch(key)
        if match and match["what"] == what and (match["value"] or value):
            found.add(match["value"] or value)
    return sorted(found)


def _value(facts: NodeFacts, what: str) -> str:
    values = _values(facts, what)
    return values[0] if len(values) == 1 else ""


def _mode(facts: NodeFacts, part: str, vram: int | None) -> str:
    """The partition mode in lower case; empty for none."""
    for key, value in sorted(facts.labels.items()):
        if key.startswith(("amd.com/", "beta.amd.com/")) and "supported" not in key:
            match = _MODE.search(value) or (_MODE.search(key) if value not in ("false", "0") else None)
            if match:
                return match[1].lower()
    named = [name for name, quantity in facts.resources(_MODE_RESOURCE) if quantity > 0]
    if named:
        return named[0].partition("/")[2][:3]
    whole = memory_of(part)
    if not vram or not whole or part == "amd-igpu":
        return ""
    share = round(whole / vram)
    return next((m for m in ("dpx", "tpx", "qpx", "cpx") if share == partition_of(m, part) and share > 1), "")


def _devices(facts: NodeFacts, per_device: int) -> int | None:
    offered = facts.total(_GPU) or facts.total(_MODE_RESOURCE)
    counted = _counted_in_labels(facts)
    units = offered or counted
    if per_device > 1:
        return units // per_device if units and units % per_device == 0 else None
    platform = count_of(facts.ending("/instance-gpu-count", "/sku-gpu-count")) if not offered else None
    units = units or platform or 0
    return units if 0 < units <= MOST_DEVICES else None


def _counted_in_labels(facts: NodeFacts) -> int:
    """Old labels carry their count as value (``beta.amd.com/gpu.device-id.74b5=8``)."""
    counts = {}
    for key, value in facts.labels.items():
        match = _LABEL.fullmatch(key)
        if match and match["what"] == "device-id" and match["value"]:
            counts[match["value"]] = count_of(value) or 0
    return sum(counts.values())
