"""One Node or ResourceSlice -> which part of the catalogue it has, how many, with how much memory.

Decided here: which vendor's reading counts, when the machine type fills a gap, and when a node is a plain CPU node: when nothing on it
speaks of an accelerator and it says its architecture. Answers are on meaning and never guess: what an object does not tell is unknown.
Not decided here: what each vendor's labels mean (the readers), and which AcceleratorClass a node belongs to (``match.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from modelfleet.core.world import Node

from .amd import read_amd
from .facts import UNKNOWN, Malformed, NodeFacts, Recognition, count_of, mapping_at, shown
from .instances import NO_INSTANCE, Instance, read_instance
from .models import by_pci
from .npus import read_ascend, read_furiosa, read_gaudi, read_intel, read_neuron, read_qualcomm, read_rebellions, read_tpu
from .nvidia import read_nvidia
from .slices import read_slice

__all__ = ["recognise", "recognise_facts", "recognise_node"]

_READERS: Final[tuple[Callable[[NodeFacts, Instance], Recognition | None], ...]] = (
    read_nvidia,
    read_amd,
    read_tpu,
    read_neuron,
    read_gaudi,
    read_ascend,
    read_furiosa,
    read_rebellions,
    read_qualcomm,
    read_intel,
)
_INTEGRATED: Final = ("amd-igpu", "intel-igpu")
_TYPES: Final = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type", "karpenter.azure.com/sku-name", "nvidia.com/gpu.machine")
_WORDS: Final = "[a-z]?gpus?|[a-z]?npu|[a-z]?tpu|ipu|hpu|dpu|xpu|ppu|rdu|lpu|fpga|aiu|mlu|dcu|gcu|accel|accelerators?|directx|[a-z]?cuda|spyre|hailo|corsair"
_ACCELERATOR_WORD: Final = re.compile(rf"(?:^|[./_-])(?:{_WORDS})(?:num|mem|cores?|memory)?(?:$|[./_-])", re.IGNORECASE)
_LABEL_WORD: Final = re.compile(r"(?:^|[./_-])([a-z]?gpu|npu|tpu|[xp]pu|accelerator|(?:[a-z]?gpu|[px]pu)[-_](?:model|name|type|product|device-enable))$")
_SPOKEN: Final = re.compile(r"(?!non?-|cpu)(?:.*[./_-])?(?:gpus?|npus?|tpus?|accelerators?|accelerated)(?:$|[./_-])", re.IGNORECASE)
"""In the value of a taint or of a label that says what a node is for (``dedicated=gpu``)."""
_PURPOSE: Final = re.compile(r"(?:.*[/._-])?(?:dedicated|workload|workload-type|node-?type|node-?pool|pool|role|purpose|class|hardware|instance-class)")
_NOTHING: Final = ("false", "none", "no", "off", "0", "cpu", "")
_OTHER_VENDORS: Final = (
    "tenstorrent.com/",
    "xilinx.com/",
    "cambricon.com/",
    "metax-tech.com/",
    "hygon.com/",
    "iluvatar.",
    "enflame.com/",
    "ibm.com/aiu",
    "ibm.com/spyre",
    "kunlunxin.com/",
    "mthreads.com/",
    "birentech.com/",
    "sambanova.ai/",
    "hailo.ai/",
    "d-matrix.ai/",
    "graphcore.ai/",
    "groq.com/",
)
_CLASS_OF_ACCELERATORS: Final = re.compile(
    r"feature\.node\.kubernetes\.io/pci-(?:12[0-9a-f]{2}|0302|0380)_[0-9a-f]{4}(?:_[0-9a-f]{4})*\.present", re.IGNORECASE
)
"""PCI classes that feature discovery publishes by itself: processing accelerators, and display controllers without a display."""
_DISPLAY: Final = re.compile(r"feature\.node\.kubernetes\.io/pci-0300_(?P<vendor>8086|1002)_(?P<device>[0-9a-f]{4})(?:_[0-9a-f]{4})*\.present", re.IGNORECASE)
_FIRST_RYZEN: Final = 32
"""Models of AMD's family 26 from here on are for desktops and laptops."""
_NFD: Final = "feature.node.kubernetes.io/cpu-"


def recognise(raw: Mapping[str, Any]) -> Recognition:
    """What one Node or ResourceSlice, as the API server writes it, has. Raises Malformed for another kind or a field that cannot be."""
    kind = raw.get("kind")
    if kind == "ResourceSlice":
        return read_slice(raw)
    if kind != "Node":
        raise Malformed(f"kind: {shown(kind)} has no accelerators to recognise: give a Node or a ResourceSlice")
    mapping_at(raw, "metadata")
    return recognise_facts(NodeFacts.of(raw))


def recognise_node(node: Node) -> Recognition:
    """What a node of the world has. Equal labels and quantities give the answer of before at once."""
    amounts = {k: v for k, v in (*node.allocatable.items(), *node.capacity.items()) if "/" in k}
    return _remembered(frozenset(node.labels.items()), frozenset(amounts.items()))


def recognise_facts(facts: NodeFacts) -> Recognition:
    """What a node with these facts has."""
    machine = _machine(facts)
    readings = [r for r in (read(facts, machine) for read in _READERS) if r is not None]
    readings.sort(key=lambda r: (not r.part, r.part in _INTEGRATED))
    if readings and (readings[0].part not in _INTEGRATED or not machine.part):
        return _completed(readings[0], machine)
    if machine.accelerated:
        part = "" if machine.fraction else machine.part
        return Recognition(part or UNKNOWN, machine.devices if part else None, machine.memory_mib if part else None)
    return _without_accelerator(facts, machine)


def _completed(reading: Recognition, machine: Instance) -> Recognition:
    """The machine type names the part where no label does, and counts where it is told by it or spelled in it."""
    part, devices, memory = reading.part, reading.devices, reading.memory_mib
    if machine.fraction:
        return replace(reading, part=part or UNKNOWN)
    if not part and machine.part:
        part, memory = machine.part, memory or (machine.memory_mib if reading.unit != "MigSlice" else None)
    if devices is None and machine.devices and (not reading.part or machine.spelled or machine.by_size):
        devices = machine.devices
    return replace(reading, part=part or UNKNOWN, devices=devices, memory_mib=memory)


def _machine(facts: NodeFacts) -> Instance:
    family, size = facts.ending("/instance-family"), facts.ending("/instance-size")
    names = [facts.labels[k] for k in _TYPES if facts.labels.get(k)] + ([f"{family}.{size}"] if family and size else [])
    read = [read_instance(name) for name in names]
    return next((m for m in read if m.part or m.cpu or m.accelerated), NO_INSTANCE)


def _without_accelerator(facts: NodeFacts, machine: Instance) -> Recognition:
    architecture = facts.label("kubernetes.io/arch", "beta.kubernetes.io/arch") or facts.architecture
    if not architecture or _speaks_of_one(facts):
        return Recognition()
    return Recognition(_cpu(facts, machine), 0)


def _speaks_of_one(facts: NodeFacts) -> bool:
    """True where a resource, a taint or a label of no vendor known here speaks of an accelerator."""
    keys = (*facts.amounts, *facts.taints)
    if any(_ACCELERATOR_WORD.search(k) for k in keys) or any(k.startswith(_OTHER_VENDORS) for k in (*keys, *facts.labels)):
        return True
    if any(_SPOKEN.match(v) for v in facts.taint_values) or any(_SPOKEN.match(v) and _PURPOSE.fullmatch(k) for k, v in facts.labels.items()):
        return True
    if any(_CLASS_OF_ACCELERATORS.fullmatch(k) or _is_card(k) for k in facts.set_labels()):
        return True
    return any(_LABEL_WORD.search(k) and (v.lower() not in _NOTHING or k.startswith("node-role.")) for k, v in facts.labels.items())


def _is_card(key: str) -> bool:
    """A display controller whose id is not one of those inside a CPU."""
    found = _DISPLAY.fullmatch(key)
    return found is not None and by_pci(found["vendor"], found["device"]) not in _INTEGRATED


def _cpu(facts: NodeFacts, machine: Instance) -> str:
    """The CPU's class where the catalogue has one of its own: by machine type, or by what only that generation has."""
    if machine.cpu:
        return machine.cpu
    has = {k.removeprefix(f"{_NFD}cpuid.") for k, v in facts.labels.items() if k.startswith(f"{_NFD}cpuid.") and v == "true"}
    zen5 = facts.label(f"{_NFD}model.vendor_id") == "AMD" and facts.label(f"{_NFD}model.family") == "26"
    if zen5 and "AVX512BF16" in has and (count_of(facts.label(f"{_NFD}model.id")) or 0) < _FIRST_RYZEN:
        return "epyc-turin"
    return "xeon6-amx" if {"AMXBF16", "AMXINT8", "AMXFP16"} <= has else "cpu"


@lru_cache(maxsize=256)
def _remembered(labels: frozenset[tuple[str, str]], amounts: frozenset[tuple[str, int]]) -> Recognition:
    return recognise_facts(NodeFacts(dict(sorted(labels)), dict(sorted(amounts))))
