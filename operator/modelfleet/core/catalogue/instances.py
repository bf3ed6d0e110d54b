"""The name of a machine type -> the accelerators in it.

Decided here: which part and how many of it a cloud's machine type has, for AWS, Google Cloud, Azure, Oracle and for names that spell
both (``gpu-h100x8-640gb``). A cloud's scheme is read, not a list of its types: family, then size. Not decided here: what a node
offers of them (the readers of the vendors).

Sources: the clouds' documentation of machine types; for AWS also Karpenter's generated table of instance types (Apache-2.0).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from .models import by_memory, memory_of, read_name

__all__ = ["NO_INSTANCE", "Instance", "read_instance"]


@dataclass(frozen=True, slots=True)
class Instance:
    """A machine type.

    ``part`` empty: none known. ``by_size``: the count is fixed for the type; ``spelled``: the name itself says it. ``accelerated``: it has
    some, known or not. ``fraction``: the machine gets less than a device. ``cpu``: the class of its CPU, where it is one of the catalogue's.
    """

    part: str = ""
    devices: int | None = None
    memory_mib: int | None = None
    spelled: bool = False
    by_size: bool = False
    accelerated: bool = False
    fraction: bool = False
    cpu: str = ""


NO_INSTANCE: Final = Instance()

_SMALL: Final = dict.fromkeys(("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge"), 1)
_FOUR_TO_EIGHT: Final = {**_SMALL, "12xlarge": 4, "24xlarge": 4, "48xlarge": 8}

_AWS: Final[Mapping[str, tuple[str, Mapping[str, int]]]] = {
    "g3": ("m60", {"4xlarge": 1, "8xlarge": 2, "16xlarge": 4}),
    "g3s": ("m60", {"xlarge": 1}),
    "g4dn": ("t4", {**_SMALL, "12xlarge": 4, "metal": 8}),
    "g4ad": ("radeon-pro-v520", {"xlarge": 1, "2xlarge": 1, "4xlarge": 1, "8xlarge": 2, "16xlarge": 4}),
    "g5": ("a10g", _FOUR_TO_EIGHT),
    "g5g": ("t4g", {**_SMALL, "16xlarge": 2, "metal": 2}),
    "g6": ("l4", _FOUR_TO_EIGHT),
    "gr6": ("l4", {"4xlarge": 1, "8xlarge": 1}),
    "g6e": ("l40s", _FOUR_TO_EIGHT),
    "g7e": ("rtx-pro-6000", {"2xlarge": 1, "4xlarge": 1, "8xlarge": 1, "12xlarge": 2, "24xlarge": 4, "48xlarge": 8}),
    "p2": ("k80", {"xlarge": 1, "8xlarge": 8, "16xlarge": 16}),
    "p3": ("v100-16gb", {"2xlarge": 1, "8xlarge": 4, "16xlarge": 8}),
    "p3dn": ("v100-32gb", {"24xlarge": 8}),
    "p4d": ("a100-40gb", {"24xlarge": 8}),
    "p4de": ("a100-80gb", {"24xlarge": 8}),
    "p5": ("h100-sxm", {"4xlarge": 1, "48xlarge": 8}),
    "p5e": ("h200-sxm", {"48xlarge": 8}),
    "p5en": ("h200-sxm", {"48xlarge": 8}),
    "p6-b200": ("b200-sxm", {"48xlarge": 8}),
    "p6-b300": ("b300-sxm", {"48xlarge": 8}),
    "p6e-gb200": ("gb200", {"36xlarge": 4}),
    "p6e-gb300": ("gb300", {"36xlarge": 4}),
    "inf1": ("inferentia1", {"xlarge": 1, "2xlarge": 1, "6xlarge": 4, "24xlarge": 16}),
    "inf2": ("inferentia2", {"xlarge": 1, "8xlarge": 1, "24xlarge": 6, "48xlarge": 12}),
    "trn1": ("trainium1", {"2xlarge": 1, "32xlarge": 16}),
    "trn1n": ("trainium1", {"32xlarge": 16}),
    "trn2": ("trainium2", {"3xlarge": 1, "48xlarge": 16}),
    "trn2u": ("trainium2", {"48xlarge": 16}),
    "dl1": ("gaudi1", {"24xlarge": 8}),
    "dl2q": ("qualcomm-ai100", {"24xlarge": 8}),
}
_AWS_TYPE: Final = re.compile(r"(?P<family>[a-z]+\d+[a-z]*(?:-[a-z0-9]+)?)\.(?P<size>\d*xlarge|metal(?:-\d+xl)?|nano|micro|small|medium|large)$")
_AWS_ACCELERATED: Final = re.compile(r"(p|g|gpu|gr|trn|inf|dl|vt|f)\d")
_AWS_CPUS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"(m|c|r|x|i|hpc|is|im)8g[a-z]*$"), "graviton4"),
    (re.compile(r"(m|c|r|x|i)8i[a-z]*(-flex)?$"), "xeon6-amx"),
    (re.compile(r"(m|c|r|x|hpc)8a[a-z]*$"), "epyc-turin"),
)

_GCE: Final[Mapping[str, str]] = {
    "a2-highgpu": "a100-40gb", "a2-megagpu": "a100-40gb", "a2-ultragpu": "a100-80gb", "a3-highgpu": "h100-sxm", "a3-megagpu": "h100-sxm",
    "a3-edgegpu": "h100-sxm", "a3-ultragpu": "h200-sxm", "a4-highgpu": "b200-sxm", "a4x-highgpu": "gb200", "a4x-maxgpu": "gb300",
    "ct2-hightpu": "tpu-v2", "ct3-hightpu": "tpu-v3", "ct3p-hightpu": "tpu-v3", "ct4p-hightpu": "tpu-v4", "ct5l-hightpu": "tpu-v5e",
    "ct5lp-hightpu": "tpu-v5e", "ct5p-hightpu": "tpu-v5p", "ct6e-standard": "tpu-v6e", "ct6e-ultranet": "tpu-v6e", "tpu7x-standard": "tpu-v7x",
    "tpu7x-ultranet": "tpu-v7x", "g2-standard": "l4", "g4-standard": "rtx-pro-6000",
}  # fmt: skip
_GCE_SPELLED: Final = re.compile(r"(?P<family>[a-z0-9]+-[a-z0-9]+)-(?P<count>\d{1,3})[gt](?:-nolssd|-metal)?$")
_GCE_SHAPE: Final = re.compile(r"(?P<family>g[24]-standard)-(?P<cpus>\d+)$")
_GCE_SHAPES: Final = {"g2-standard": {4: 1, 8: 1, 12: 1, 16: 1, 32: 1, 24: 2, 48: 4, 96: 8}, "g4-standard": {48: 1, 96: 2, 192: 4, 384: 8}}
_GCE_ACCELERATED: Final = re.compile(r"(a[2-9]x?|g[2-5]|ct\d[a-z]*|tpu\d[a-z]*)-")

_AZURE: Final = re.compile(
    r"standard_(?P<family>ncc|nc|nd|nv|ng|np)(?P<cpus>\d{1,4})(?P<features>[a-z]*)(?:_(?:xl|flex))*(?:_(?P<chip>(?!v\d+$)[a-z0-9]+(?:_[a-z0-9]+)?))??(?:_v(?P<version>\d+))?$"
)
_AZURE_UNNAMED: Final[Mapping[tuple[str, str], tuple[str, int]]] = {
    ("nc", ""): ("k80", 6), ("nc", "2"): ("p100", 6), ("nc", "3"): ("v100-16gb", 6), ("nd", ""): ("p40", 6), ("nd", "2"): ("v100-32gb", 5),
    ("nv", ""): ("m60", 6), ("nv", "3"): ("m60", 12),
}  # fmt: skip
"""Sizes that name no chip: the part and the vCPUs for each."""
_AZURE_CPUS_PER_DEVICE: Final = {
    ("nc", "t4"): 16, ("nc", "a100-80gb"): 24, ("nc", "h100-nvl"): 40, ("nc", "rtx-pro-6000"): 128, ("nd", "a100-40gb"): 12, ("nd", "a100-80gb"): 12,
    ("nd", "h100-sxm"): 12, ("nd", "h200-sxm"): 12, ("nd", "b200-sxm"): 16, ("nd", "mi300x"): 12, ("nd", "gb200"): 32, ("nd", "gb300"): 32, ("nv", "a10"): 36,
    ("nv", "radeon-pro-v710"): 24, ("ng", "radeon-pro-v620"): 32,
}  # fmt: skip

_OCI: Final = re.compile(r"(?:bm|vm)\.gpu\.?(?P<chip>[a-z0-9-]+)\.(?P<count>\d{1,3})$")
_OCI_CHIPS: Final = {"2": "p100", "3": "v100-16gb", "4": "a100-40gb", "b4": "a100-40gb", "a100-v2": "a100-80gb", "gm4": "a100-80gb", "a100": "a100-80gb"}
_COUNTED: Final = (
    re.compile(r"(?:^|[-_.])(?P<count>\d{1,2})x[-_]?(?P<chip>[a-z]+\d+[a-z]*)"),
    re.compile(r"(?:^|[-_.])(?P<chip>[a-z]+\d+[a-z]*?)x(?P<count>\d{1,2})(?=$|[-_.])"),
    re.compile(r"x(?P<count>\d{1,2})(?P<chip>[a-z]+\d+[a-z]*)$"),
    re.compile(r"^(?P<chip>[a-z]+\d+[a-z]*)-(?P<count>\d{1,2})(?:-\d+g|x)$"),
)
_LONGEST: Final = 128
_SIZES: Final = (16, 32, 40, 80)
"""GB of one device; a larger figure beside a count is that of the machine."""
_NAMED: Final = re.compile(r"(?:^|[-_.])(gpu\d*|accelerator|accelerated)[-_.]|[-_.]gpu$|^ecs\.((ebm|s|v)?gn|(hpc)?(p|g)ni)\d|^vcg-")
"""Names that say they have accelerators, and not which."""
_HIDDEN: Final = re.compile(r"gn\d{1,2}[a-z]*\.|(pi|p|ai|g|kai)\d[a-z]{0,2}\.\d*x?large\.\d{1,2}$|gx\d[a-z]?[.-]")
"""The families of clouds whose names say nothing to who does not know them: Tencent GN, Huawei p, pi, g and ai, IBM gx."""
_CHIP_WORD: Final = re.compile(
    r"(?:^|[-_.x\d])(?P<chip>[abh][1238]00[a-z]?|[vp]100[a-z]?|h20|a[34]0|gb\d00|gh200|l4|l40s?|t4|rtx[a-z]?\d{4}[a-z]?|mi\d{2,3}[xa]?|gaudi\d|tpu)(?=$|[-_.])"
)
"""A chip's name among the words of a machine type; short names that are as well a size of a CPU machine (a2, p4, l2, a10) are not."""
_PLAIN: Final = re.compile(
    r"g[67]-(?:nanode|standard|dedicated|highmem|premium)|(?:vm|bm)\.(?:standard|densei?o|optimized|hpc)|standard_[abdefhlm]|[abcdefmnrtux]\d[a-z]*-(?:standard|highmem|highcpu|micro|small|medium)"
)


@lru_cache(maxsize=1024)
def read_instance(name: str) -> Instance:
    """What is in a machine type; NO_INSTANCE for a name that says nothing."""
    text = name[:_LONGEST].strip().lower().removesuffix("-sev")
    for read in (_aws, _gce, _azure, _oci, _spelled):
        found = read(text)
        if found is not None:
            return found
    return Instance(accelerated=_speaks_of_one(text))


def _speaks_of_one(text: str) -> bool:
    if _PLAIN.match(text):
        return False
    return any(pattern.search(text) for pattern in (_NAMED, _CHIP_WORD)) or _HIDDEN.match(text) is not None


def _aws(text: str) -> Instance | None:
    match = _AWS_TYPE.match(text.removeprefix("ml."))
    if match is None:
        return None
    family, size = match["family"], match["size"]
    part, sizes = _AWS.get(family, ("", {}))
    if part:
        return Instance(part, sizes.get(size), memory_of(part), by_size=True, accelerated=True)
    if re.match(r"(g6f|gr6f|g7f)$", family):
        return Instance("l4", None, None, accelerated=True, fraction=True)
    cpu = next((cpu for pattern, cpu in _AWS_CPUS if pattern.match(family)), "")
    return Instance(accelerated=bool(_AWS_ACCELERATED.match(family)), cpu=cpu)


def _gce(text: str) -> Instance | None:
    spelled = _GCE_SPELLED.match(text)
    if spelled and spelled["family"] in _GCE:
        part = _GCE[spelled["family"]]
        return Instance(part, int(spelled["count"]), memory_of(part), spelled=True, accelerated=True)
    shape = _GCE_SHAPE.match(text)
    if shape:
        part = _GCE[shape["family"]]
        devices = _GCE_SHAPES[shape["family"]].get(int(shape["cpus"]))
        return Instance(part, devices, memory_of(part), accelerated=True, fraction=devices is None)
    return Instance(accelerated=True) if _GCE_ACCELERATED.match(text) else None


def _azure(text: str) -> Instance | None:
    match = _AZURE.match(text)
    if match is None:
        return Instance(accelerated=text.startswith("standard_n")) if text.startswith("standard_") else None
    family, cpus, chip = match["family"].replace("ncc", "nc"), int(match["cpus"]), match["chip"]
    if chip is None:
        return _azure_unnamed(family, cpus, match["features"], match["version"] or "")
    part = _azure_part(family, match["features"], chip)
    per_device = _AZURE_CPUS_PER_DEVICE.get((family, part))
    if per_device is None:
        return Instance(part, None, memory_of(part), accelerated=True)
    fraction = cpus < per_device and part in ("a10", "rtx-pro-6000", "radeon-pro-v620", "radeon-pro-v710")
    return Instance(part, None if fraction else max(1, round(cpus / per_device)), memory_of(part), by_size=True, accelerated=True, fraction=fraction)


def _azure_unnamed(family: str, cpus: int, features: str, version: str) -> Instance:
    if (family, version) == ("nd", "4"):
        part = "a100-80gb" if "m" in features else "a100-40gb"
        return Instance(part, 8 if cpus == 96 else None, memory_of(part), by_size=True, accelerated=True)
    part, per_device = _AZURE_UNNAMED.get((family, version), ("", 1))
    return Instance(part, max(1, cpus // per_device) if part else None, memory_of(part), by_size=True, accelerated=True)


def _azure_part(family: str, features: str, chip: str) -> str:
    part = read_name(chip.replace("_", "-")).part
    if part == "a100":
        return "a100-80gb" if family == "nc" or "m" in features else "a100-40gb"
    return "h100-nvl" if (family, part) == ("nc", "h100-sxm") else part


def _oci(text: str) -> Instance | None:
    match = _OCI.match(text)
    if match is None:
        return None
    part = _OCI_CHIPS.get(match["chip"]) or read_name(match["chip"]).part
    return Instance(part, int(match["count"]), memory_of(part), spelled=True, accelerated=True)


def _spelled(text: str) -> Instance | None:
    for pattern in _COUNTED:
        match = pattern.search(text)
        part = _chip(match["chip"]) if match else ""
        if match and part:
            count, size = int(match["count"]), read_name(text).size_gb
            each = (size if size in _SIZES else size // max(1, count)) * 1024 if size else None
            whole = read_name(text).part
            part = by_memory(whole if whole.partition("-")[0] == part.partition("-")[0] else part, each)
            return Instance(part, count, memory_of(part) or each, spelled=True, accelerated=True)
    return None


def _chip(word: str) -> str:
    # AMD's X is the last letter of the name and the sign before the count at once: mi300x1
    return (read_name(f"{word}x").part if word.startswith("mi") else "") or read_name(word).part or read_name(word.removesuffix("ib")).part
