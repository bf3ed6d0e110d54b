"""What a Node says of NVIDIA GPUs.

Decided here: part, physical devices and memory, from feature discovery, the labels of platforms and the resources of device plugins.
Feature discovery rules where it is: it read the card. With MIG strategy ``single`` its counts and memory are those of slices, and so
tell nothing of the card; time-slicing multiplies the resource, never ``gpu.count``. A count of a resource is one of devices only where
nothing on the node shares them. Not decided here: what a name or a machine type means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .facts import NodeFacts, Recognition, Unit, count_of, mebibytes
from .instances import Instance
from .models import AMBIGUOUS, Named, alike, by_memory, by_pci, memory_of, read_name, vendor_of

__all__ = ["MOST_DEVICES", "read_nvidia"]

MOST_DEVICES: Final = 16
"""No server offers more physical GPUs: a larger count is one of slices or shares."""

PRODUCT: Final = "nvidia.com/gpu.product"
_ALIYUN: Final = "aliyun.accelerator/nvidia_"
GKE: Final = "cloud.google.com/gke-accelerator"
_GKE_SIZES: Final = {"nvidia-tesla-a100": 40, "nvidia-tesla-v100": 16}
"""GB of the two cards that GKE names without their size."""

_MOST_MIB: Final = 1 << 30
_GPU: Final = r"nvidia\.com/gpu"
_SHARED: Final = r"nvidia\.com/gpu\.shared"
_MIG_RESOURCE: Final = r"nvidia\.com/mig-.*"
_NOT_A_CARD: Final = re.compile(r"nvidia\.com/(gpu.*|mig-.*)")
_WHOLE_CARD: Final = re.compile(r"7g\.|4g\.24gb")
"""MIG profiles that take the card whole: one slice is one device (4g.24gb: of an A30)."""

_PCI: Final = re.compile(r"feature\.node\.kubernetes\.io/pci-(?:(?P<kind>[0-9a-f]{4})_)?10de(?:_(?P<device>[0-9a-f]{4}))?\.present", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Card:
    """A card that something on the node names, with what else that says of it."""

    named: Named
    memory_mib: int | None = None
    devices: int | None = None


def read_nvidia(facts: NodeFacts, machine: Instance) -> Recognition | None:
    """The node's NVIDIA GPUs; None where nothing on it speaks of any."""
    card = next((c for c in _cards(facts) if vendor_of(c.named.part) == "NVIDIA"), None)
    if card is None and not _signs(facts):
        return None
    product = read_name(facts.label(PRODUCT))
    unit, profile = _unit(facts, product)
    whole_slices = unit == "MigSlice" and bool(_WHOLE_CARD.match(profile))
    memory = _memory(facts, "Device" if whole_slices else unit)
    part = card.named.part if card and unit == "VirtualGpu" else _part(card, memory, machine, by_label=bool(facts.label(PRODUCT)))
    if unit == "VirtualGpu" and part:
        part = f"{re.sub(r'-(40gb|80gb|16gb|32gb|sxm|nvl)$', '', part)}-vgpu"
        memory = memory or ((count_of(profile[:-1]) or 0) * 1024 or None)
    if memory is None and (unit != "MigSlice" or whole_slices):
        memory = (card.memory_mib or _spelled_memory(card.named, part) if card else None) or memory_of(part)
    devices = _devices(facts, "Device" if whole_slices else unit)
    if devices is None and card:
        devices = card.devices
    return Recognition(part, devices, memory, unit, profile)


def _cards(facts: NodeFacts) -> Iterator[_Card]:
    yield _Card(read_name(facts.label(PRODUCT)))
    for key, value in sorted(facts.labels.items()):
        if key.startswith("nvidia.com/mig-") and key.endswith(".product"):
            yield _Card(read_name(value))
    yield from _hami(facts)
    yield _Card(read_name(facts.label(f"{_ALIYUN}name")), mebibytes(facts.label(f"{_ALIYUN}mem")), facts.number(f"{_ALIYUN}count"))
    yield _Card(read_name(facts.label("gpu.nvidia.com/class")))
    yield _Card(read_name(facts.label("gpu.nvidia.com/model")))
    yield _Card(read_name(facts.ending("/instance-gpu-name", "/sku-gpu-name")))
    on_gke = facts.label(GKE)
    named = read_name(on_gke)
    yield _Card(Named(named.part, named.size_gb or _GKE_SIZES.get(on_gke)))
    for value in facts.written_by_people():
        yield _Card(read_name(value))
    for key in sorted(facts.labels):
        pci = _PCI.fullmatch(key)
        if pci and pci["device"]:
            yield _Card(Named(by_pci("10de", pci["device"])))
    for resource, quantity in facts.resources(r"nvidia\.com/.*"):
        if not _NOT_A_CARD.fullmatch(resource):
            named = read_name(resource.partition("/")[2])
            yield _Card(named, devices=quantity if 0 < quantity <= MOST_DEVICES and not named.vgpu else None)


def _hami(facts: NodeFacts) -> Iterator[_Card]:
    """HAMi keeps one entry per card in an annotation: ``id,shares,MiB,cores,type,...`` between colons, or a JSON list."""
    text = facts.annotations.get("hami.io/node-nvidia-register") or facts.annotations.get("4pd.io/node-nvidia-register") or ""
    rows: list[tuple[str, int | None]]
    if text.lstrip().startswith("["):
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):
            return
        cards = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
        rows = [(e["type"] if isinstance(e.get("type"), str) else "", _whole(e.get("devmem"))) for e in cards]
    else:
        split = [e.split(",") for e in text.split(":") if e.count(",") >= 4]
        rows = [(e[4], count_of(e[2])) for e in split]
    if rows and len({name for name, _ in rows}) == 1:
        yield _Card(read_name(rows[0][0]), rows[0][1], len(rows))


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and 0 < value < _MOST_MIB else None


def _signs(facts: NodeFacts) -> bool:
    if any(re.fullmatch(r"nvidia\.com/(gpu|mig|vgpu|pgpu|cuda).*", k) for k in (*facts.set_labels(), *facts.amounts, *facts.taints)):
        return True
    if facts.label(f"{_ALIYUN}name", f"{_ALIYUN}count"):
        return True
    if any(k.startswith(("gpu.nvidia.com/", "volcano.sh/vgpu")) for k in (*facts.set_labels(), *facts.amounts)) or any(_hami(facts)):
        return True
    if any(pci and pci["kind"] in (None, "0300", "0302") for pci in map(_PCI.fullmatch, facts.set_labels())):
        return True
    makers = (facts.ending("/instance-gpu-manufacturer", "/sku-gpu-manufacturer"), facts.ending("/accelerator"), facts.label("accelerator", GKE))
    return any(m.lower().startswith("nvidia") for m in makers)


def _unit(facts: NodeFacts, product: Named) -> tuple[Unit, str]:
    """What one unit of the ordinary resource is."""
    gke_slice = facts.label("cloud.google.com/gke-gpu-partition-size")
    if product.mig or gke_slice or _configured_single(facts):
        config = re.search(r"\d+g\.\d+gb.*", facts.label("nvidia.com/mig.config"))
        return "MigSlice", product.mig or gke_slice or (config[0] if config else "")
    if facts.label("nvidia.com/vgpu.present") == "true" or product.vgpu:
        return "VirtualGpu", "" if product.vgpu == "unknown" else product.vgpu
    mediated = {n.vgpu for n in _mediated(facts)} if not product.part else set()
    if mediated:
        return "VirtualGpu", mediated.pop() if len(mediated) == 1 else ""
    if product.shared or _replicas(facts) > 1 or facts.total(_SHARED) > 0 or facts.label("nvidia.com/gpu.sharing-strategy") in ("time-slicing", "mps"):
        return "TimeSlice", ""
    if _shared_by_others(facts):
        return "Share", ""
    return "Device", ""


def _mediated(facts: NodeFacts) -> Iterator[Named]:
    """Virtual GPUs that KubeVirt offers under the name of their type (``NVIDIA_A10-12Q``)."""
    names = (read_name(resource.partition("/")[2]) for resource, _ in facts.resources(r"nvidia\.com/.*") if not _NOT_A_CARD.fullmatch(resource))
    return (n for n in names if n.vgpu and n.part)


def _spelled_memory(named: Named, part: str) -> int | None:
    """MiB that the name spells, where that is not the part's common size."""
    size = named.size_gb * 1024 if named.size_gb else None
    common = memory_of(part)
    return size if size and common and not alike(common, size) else None


def _configured_single(facts: NodeFacts) -> bool:
    """MIG strategy single, on a node whose product label is not seen: slices under the ordinary resource."""
    config, strategy = facts.label("nvidia.com/mig.config"), facts.label("nvidia.com/mig.strategy")
    if facts.label("nvidia.com/gpu.slices.gi"):
        return True
    if facts.label(PRODUCT) or strategy in ("mixed", "none") or not re.match(r"all-(\d+g\.|balanced)", config):
        return False
    return facts.total(_MIG_RESOURCE) == 0 and not any(re.fullmatch(r"nvidia\.com/mig-.*\.count", k) for k in facts.labels)


def _replicas(facts: NodeFacts) -> int:
    """Shares of one device: of time-slicing or MPS, by feature discovery or by GKE; 0 where nothing tells."""
    return facts.number("nvidia.com/gpu.replicas", "cloud.google.com/gke-max-shared-clients-per-gpu") or 0


def _shared_by_others(facts: NodeFacts) -> bool:
    """HAMi or Volcano divide the cards: their units stand under the ordinary resource, or beside it."""
    if (
        facts.label("gpu") == "on"
        or any(_hami(facts))
        or any(k.startswith(("volcano.sh/vgpu", "nvidia.com/gpumem", "nvidia.com/gpucores")) for k in facts.amounts)
    ):
        return True
    count, offered = facts.number("nvidia.com/gpu.count"), facts.total(_GPU)
    return bool(count and offered >= 2 * count and offered % count == 0)  # a count that lags behind a card more is no sharing


def _devices(facts: NodeFacts, unit: Unit) -> int | None:
    platform = facts.number("gpu.nvidia.com/count") or _platform_count(facts)
    if unit == "MigSlice":
        return platform
    told = facts.number("nvidia.com/gpu.count") or platform
    if told:
        return told
    cores = facts.amounts.get("volcano.sh/vgpu-cores", 0)
    if cores and cores % 100 == 0:
        return cores // 100
    offered = facts.total(_GPU) or facts.total(_SHARED) or facts.total(r"nvidia\.com/pgpu")
    if unit == "TimeSlice":
        replicas = _replicas(facts)
        return offered // replicas if offered and replicas > 1 and offered % replicas == 0 else None
    if unit == "Share" or facts.total(_MIG_RESOURCE):
        return None  # slices under their own names are of cards that the ordinary resource does not count
    return offered if 0 < offered <= MOST_DEVICES else None


def _platform_count(facts: NodeFacts) -> int | None:
    text = facts.ending("/instance-gpu-count", "/sku-gpu-count") or (facts.label("cloud.google.com/gke-accelerator-count") if facts.label(GKE) else "")
    return count_of(text) or None


def _memory(facts: NodeFacts, unit: Unit) -> int | None:
    if unit != "MigSlice":
        found = mebibytes(facts.label("nvidia.com/gpu.memory"))
        if found:
            return found
    return mebibytes(facts.ending("/instance-gpu-memory")) or mebibytes(facts.label("gpu.nvidia.com/vram"))


def _part(card: _Card | None, memory: int | None, machine: Instance, *, by_label: bool) -> str:
    if card is None:
        return ""
    named = card.named
    if named.part in AMBIGUOUS and machine.part.startswith(f"{named.part}-") and not named.size_gb:
        return machine.part
    if named.bare and not by_label and machine.part.startswith(f"{named.part.partition('-')[0]}-"):
        return machine.part
    size = named.size_gb * 1024 if named.size_gb else card.memory_mib or memory
    return by_memory(named.part, size)
