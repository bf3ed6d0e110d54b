"""What a ResourceSlice says of the accelerators it lists.

Decided here: which of its devices are accelerators (by driver), which part they are (by the attributes that name it), how many are
physical (a MIG slice or a partition is not) and their memory. Both shapes of the API are read: attributes below ``basic`` (v1beta1) and
plain (v1beta2, v1). Devices of other drivers tell at most the machine they are in. Not decided here: what a name or a PCI id means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from modelfleet.core.quantity import parse_quantity

from .amd import partition_of
from .facts import UNKNOWN, Malformed, Recognition, mapping_at, shown, text_of
from .instances import NO_INSTANCE, Instance, read_instance
from .models import by_memory, by_pci, memory_of, read_name, vendor_of

__all__ = ["read_slice"]

_DRIVERS: Final = (
    (re.compile(r"(gpu|mig|vgpu)\.nvidia\.com"), "NVIDIA", "10de"),
    (re.compile(r"gpu\.amd\.com"), "AMD", "1002"),
    (re.compile(r"gaudi\.(intel\.com|habana\.ai)|habana\.ai"), "Intel", "1da3"),
    (re.compile(r"gpu\.intel\.com"), "Intel", "8086"),
    (re.compile(r"tpu\.google\.com"), "Google", ""),
    (re.compile(r"(.*\.)?furiosa\.ai"), "FuriosaAI", ""),
    (re.compile(r"(.*\.)?rebellions\.ai|(npu\.)?rbln\..*"), "Rebellions", ""),
    (re.compile(r"neuron\.(aws\.com|amazonaws\.com|amazon\.com|aws)|(.*\.)?neuron\..*"), "AWS", ""),
    (re.compile(r"(.*\.)?(qualcomm\.com|qaic\..*)"), "Qualcomm", ""),
    (re.compile(r"(.*\.)?huawei\.com|(.*\.)?ascend\..*"), "Huawei", ""),
)  # fmt: skip
_NAMES: Final = ("productName", "product", "model", "accelerator", "accelerator-type", "tpuGen", "deviceType", "chip", "chipName", "arch", "name", "family")
_IDS: Final = ("pciId", "deviceId", "deviceID", "pciDeviceId", "pciDeviceID")
_MACHINES: Final = re.compile(r"(vmsize|machinetype|instancetype)", re.IGNORECASE)
_PARENTS: Final = re.compile(r"parent.*(uuid|pci|bus|name|serial)", re.IGNORECASE)
_NOT_WHOLE: Final = ("mig", "partition", "vfio", "vf")
_BOARD: Final = 8
"""OAM modules stand eight to a board: a slice of fewer shows only some of the node's."""
_ALIKE: Final = Decimal("0.02")
_SHOWN: Final = 80
_MOST_BYTES: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class _Device:
    part: str
    memory_mib: int | None
    kind: str
    uuid: str
    parent: str
    chips: int
    oam: bool
    mode: str


def read_slice(raw: Mapping[str, Any]) -> Recognition:
    """The accelerators of one ResourceSlice. Raises Malformed."""
    spec = mapping_at(raw, "spec")
    listed = spec.get("devices")
    listed = [] if listed is None else listed
    if not isinstance(listed, list):
        raise Malformed(f"spec.devices: {shown(listed)} is not a list: write one entry per device")
    entries = [_entry(device, index) for index, device in enumerate(listed)]
    driver = next((d for d in _DRIVERS if d[0].fullmatch(text_of(spec.get("driver"), "spec.driver").lower())), None)
    machine = _machine(attributes for attributes, _ in entries)
    if driver is None or not entries:
        return Recognition(machine.part or UNKNOWN, None, machine.memory_mib)
    devices = [_device(attributes, capacity, driver[1], driver[2], machine) for attributes, capacity in entries]
    parts = {d.part for d in devices}
    part = parts.pop() if len(parts) == 1 else ""
    count: int | None = _physical(devices, part)
    if mapping_at(spec, "pool", "spec.pool").get("resourceSliceCount") not in (None, 1) or (part and all(d.oam for d in devices) and (count or 0) < _BOARD):
        count = None
    whole = [d for d in devices if d.kind not in _NOT_WHOLE] or [d for d in devices if d.kind in ("vfio", "vf")]
    modes = {d.mode for d in devices}
    unit = "Partition" if modes - {"", "spx"} else "MigSlice" if not whole else "Device"
    return Recognition(part or UNKNOWN, count, _memory(whole, part), unit)  # type: ignore[arg-type]


def _entry(device: Any, index: int) -> tuple[dict[str, str], dict[str, int]]:
    """Attributes by their name without domain, and capacities in MiB or units."""
    path = f"spec.devices[{index}]"
    if not isinstance(device, Mapping):
        raise Malformed(f"{path}: {shown(device)} is not a device: write a name and its attributes")
    body = mapping_at(device, "basic", f"{path}.basic") or device
    attributes = {}
    for key, value in mapping_at(body, "attributes", f"{path}.attributes").items():
        scalar = next(iter(value.values()), None) if isinstance(value, Mapping) else value
        attributes[text_of(key, path).rpartition("/")[2]] = text_of(scalar, f"{path}.attributes")
    capacity = {}
    for key, value in mapping_at(body, "capacity", f"{path}.capacity").items():
        name = text_of(key, path)
        try:
            quantity = parse_quantity(text_of(value.get("value") if isinstance(value, Mapping) else value))
        except ValueError as error:
            raise Malformed(f'{path}.capacity["{name[:_SHOWN]}"]: {error}') from None
        if abs(quantity) > _MOST_BYTES:
            raise Malformed(f'{path}.capacity["{name[:_SHOWN]}"]: {quantity} is more than any device has: write what it has')
        capacity[name.rpartition("/")[2]] = int(quantity)
    return attributes, capacity


def _machine(entries: Iterable[Mapping[str, str]]) -> Instance:
    found = {v for attributes in entries for k, v in attributes.items() if _MACHINES.search(k)}
    return read_instance(found.pop()) if len(found) == 1 else NO_INSTANCE


def _device(attributes: Mapping[str, str], capacity: Mapping[str, int], vendor: str, pci: str, machine: Instance) -> _Device:
    memory = next((v >> 20 for k, v in sorted(capacity.items()) if k.lower() in ("memory", "hbm", "vram", "devicememory") and v > 0), None)
    kind = attributes.get("type", "").lower()
    kind = "partition" if "partition" in kind or "slice" in kind else kind
    part = _part(attributes, vendor, pci, machine, None if kind in ("mig", "partition") else memory)
    parent = next((v for k, v in sorted(attributes.items()) if _PARENTS.search(k)), "")
    mode = attributes.get("partitionProfile", "")[:3].lower()
    chips = attributes.get("chipCount", "1")
    oam = "oam" in re.split(r"[^a-z]+", attributes.get("productName", "").lower())
    return _Device(
        part, memory, kind, attributes.get("uuid", ""), parent, int(chips) if chips.isascii() and chips.isdecimal() and len(chips) < 4 else 1, oam, mode
    )


def _part(attributes: Mapping[str, str], vendor: str, pci: str, machine: Instance, memory: int | None) -> str:
    for key in _NAMES:
        text = attributes.get(key, "")
        named = read_name(f"tpu-{text}" if vendor == "Google" and not text.startswith("tpu") else text)
        part = by_memory(named.part, named.size_gb * 1024 if named.size_gb else memory)
        if part in ("inferentia", "trainium"):
            part = machine.part or f"{part}1"
        if part and vendor_of(part) == vendor:
            return part
    by_id = next((p for p in (by_pci(pci, attributes[k]) for k in _IDS if attributes.get(k)) if p), "")
    return by_id or (machine.part if vendor_of(machine.part) == vendor else "")


def _physical(devices: list[_Device], part: str) -> int | None:
    """How many devices there are once slices and partitions of one are counted as one."""
    whole = [d for d in devices if d.kind not in _NOT_WHOLE]
    if not whole:
        whole = [d for d in devices if d.kind == "vfio"]
    per_device = {partition_of(d.mode, part) for d in devices}
    if whole and per_device == {1}:
        slices = [d for d in devices if d.kind == "mig"]
        hidden = {d.parent for d in slices} - {d.uuid for d in whole}
        return None if "" in hidden else sum(d.chips for d in whole) + len(hidden)
    parents = {d.parent for d in devices if d.parent}
    if parents:
        return len(parents)
    if any(d.kind == "mig" for d in devices):
        return None
    ratio = per_device.pop() if len(per_device) == 1 else 0
    return len(devices) // ratio if ratio > 1 and len(devices) % ratio == 0 else None


def _memory(whole: list[_Device], part: str) -> int | None:
    shown = sorted(d.memory_mib or 0 for d in whole)
    if not whole or not any(shown):
        return memory_of(part)
    return shown[0] if shown[0] and Decimal(shown[-1] - shown[0]) <= _ALIKE * shown[-1] else None
