"""A name as any source writes it -> the part it names.

Decided here: which row of the catalogue a product name, a label of a platform or an attribute means, from its words and not from the
whole string: vendors prefix, suffix, shorten and re-case the same part (``NVIDIA-H100-80GB-HBM3-SHARED``, ``h100``, ``nvidia-h100-80gb``).
A name is split into words at everything that is no letter or digit; words match whole, so L4, L40 and L40S stay three parts.
Not decided here: how many devices a node has, or what a machine type implies (``instances.py``).

Memory is what drivers report (MiB); a part without it exists with several sizes that its name does not tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

__all__ = ["AMBIGUOUS", "MEMORY_MIB", "Named", "alike", "by_memory", "by_pci", "memory_of", "read_name", "vendor_of"]

GIB: Final = 1024

MEMORY_MIB: Final[Mapping[str, int]] = {
    "t4": 15360, "t4g": 15360, "l4": 23034, "l40": 46068, "l40g": 24 * GIB, "l40s": 46068, "l20": 46068, "l2": 23034, "a2": 15356, "a10": 23028, "a10g": 23028,
    "a16": 15356, "a30": 24576, "a40": 46068, "a100-40gb": 40960, "a100-80gb": 81920, "a800-40gb": 40960, "a800-80gb": 81920,
    "h100-sxm": 81559, "h100-pcie": 81559, "h100-nvl": 95830, "h800-sxm": 81559, "h20": 97871, "h200-sxm": 143771, "h200-nvl": 143771,
    "gh200": 97871, "b200-sxm": 183359, "b300-sxm": 275040, "gb200": 189471, "gb300": 284208,
    "v100-16gb": 16384, "v100-32gb": 32768, "p100": 16384, "p40": 24576, "p4": 8192, "m60": 8192,
    "rtx-pro-6000": 97887, "rtx-pro-4500": 32623, "rtx-6000-ada": 49140, "rtx-a6000": 49140, "rtx-a5000": 24564, "rtx-a4000": 16376, "rtx-5000-ada": 32760,
    "rtx-4000-ada": 20475, "quadro-rtx-6000": 24576, "quadro-rtx-8000": 49152, "rtx-5090": 32607, "rtx-4090": 24564, "rtx-4090-d": 24564,
    "rtx-3090": 24576, "rtx-3090-ti": 24564, "rtx-4080": 16376,
    "mi50": 16 * GIB, "mi60": 32 * GIB, "mi100": 32 * GIB, "mi210": 64 * GIB, "mi250": 64 * GIB, "mi250x": 64 * GIB, "mi300a": 128 * GIB,
    "mi300x": 196592, "mi308x": 192 * GIB, "mi325x": 256 * GIB, "mi350x": 288 * GIB, "mi355x": 288 * GIB,
    "radeon-pro-v520": 8 * GIB, "radeon-pro-v620": 32 * GIB, "radeon-pro-v710": 28 * GIB, "radeon-pro-w7900": 48 * GIB, "vega10": 16 * GIB,
    "tpu-v2": 16 * GIB, "tpu-v3": 32 * GIB, "tpu-v4": 32 * GIB, "tpu-v5e": 16 * GIB, "tpu-v5p": 95 * GIB, "tpu-v6e": 32 * GIB, "tpu-v7x": 192 * GIB,
    "inferentia1": 8 * GIB, "inferentia2": 32 * GIB, "trainium1": 32 * GIB, "trainium2": 96 * GIB, "trainium3": 144 * GIB,
    "gaudi1": 32 * GIB, "gaudi2": 96 * GIB, "gaudi3": 128 * GIB,
    "flex-140": 6 * GIB, "flex-170": 16 * GIB, "max-1100": 48 * GIB, "max-1550": 128 * GIB, "arc-a770": 16 * GIB, "arc-b580": 12 * GIB,
    "arc-pro-b50": 16 * GIB, "arc-pro-b60": 24 * GIB,
    "ascend910b1": 64 * GIB, "ascend910b2": 64 * GIB, "ascend910b2c": 64 * GIB, "ascend910b3": 64 * GIB, "ascend910b4": 32 * GIB,
    "ascend910b4-1": 64 * GIB,
    "rngd": 48 * GIB, "warboy": 16 * GIB, "rbln-ca12": 16 * GIB, "rbln-ca22": 16 * GIB, "rbln-ca25": 64 * GIB,
}  # fmt: skip
"""Per device as the driver shows it. Sources: the recorded nodes where a part was recorded, the catalogue's rows, then vendors' data sheets."""

AMBIGUOUS: Final[Mapping[str, tuple[int, ...]]] = {"a100": (40, 80), "a800": (40, 80), "v100": (16, 32)}
"""One name, several sizes (GB): the name alone is no part."""

_WHOLE: Final = {
    **{w: w for w in ("t4", "t4g", "l4", "l40", "l40s", "l20", "l2", "a2", "a10", "a10g", "a16", "a30", "a40", "a100", "a800", "v100", "p100", "p40", "p4")},
    **{w: w for w in ("m60", "k80", "h20", "gh200", "gb200", "gb300", "gaudi2", "gaudi3", "rngd", "warboy", "inferentia2", "trainium2", "trainium3")},
    **{w: w for w in ("mi50", "mi60", "mi100", "mi210", "mi250", "mi250x", "mi300a", "mi300x", "mi308x", "mi325x", "mi350x", "mi355x", "vega10")},
    "mi325": "mi325x", "mi350": "mi350x", "mi355": "mi355x", "a100d": "a100-80gb", "a100x": "a100-80gb", "v100d": "v100-32gb", "v100s": "v100-32gb",
    "b200": "b200-sxm", "b300": "b300-sxm", "h100": "h100-sxm", "h100l": "h100-nvl", "h200": "h200-sxm", "h800": "h800-sxm",
    "gaudi": "gaudi", "gaudi1": "gaudi1", "inferentia": "inferentia", "inferentia1": "inferentia1", "trainium": "trainium", "trainium1": "trainium1",
    "ai100": "qualcomm-ai100", "v100dx": "v100-32gb", "h100xm": "h100-sxm", "l40g": "l40g",
    "v520": "radeon-pro-v520", "v620": "radeon-pro-v620", "v710": "radeon-pro-v710",
}  # fmt: skip
"""Words that name a part alone. Vendors drop AMD's X; D, X and S stand for the larger memory."""

_PHRASES: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern), part)
    for pattern, part in (
        (r"-rtx-?pro-(?:server-)?(\d{4})(?:bse)?-", r"rtx-pro-\1"),
        (r"-rtxpro(\d{4})(?:bse|wse)?-", r"rtx-pro-\1"),
        (r"-rtx-?(\d{4})-?ada-", r"rtx-\1-ada"),
        (r"-rtx-?a(\d{4})-", r"rtx-a\1"),
        (r"-quadro-rtx-(\d{4})-", r"quadro-rtx-\1"),
        (r"-rtx-?([2345]0[5-9]0)-?(ti|d)-super-", r"rtx-\1-\2-super"),
        (r"-rtx-?([2345]0[5-9]0)-?(ti|super|d)-", r"rtx-\1-\2"),
        (r"-rtx-?([2345]0[5-9]0)-", r"rtx-\1"),
        (r"-radeon-pro-([vw]\d{3,4}[a-z]?)-", r"radeon-pro-\1"),
        (r"-radeon-(v\d{3})-", r"radeon-pro-\1"),
        (r"-radeon-rx-(\d{4})-(xtx|xt|gre)-", r"radeon-rx-\1-\2"),
        (r"-vega-10-", "vega10"),
        (r"-tpu-?v5-?(?:e-|lite)", "tpu-v5e"),
        (r"-tpu-?(v[234]|v5p|v6e)-", r"tpu-\1"),
        (r"-tpu-?v?7x?-", "tpu-v7x"),
        (r"-(?:flex|flex-series)-(1[47]0)[a-z]?-", r"flex-\1"),
        (r"-(?:max|max-series)-(1[015]\d0)[a-z]?-", r"max-\1"),
        (r"-arc-(?:graphics-)?(pro-)?([ab]\d{2,3})[a-z]?-", r"arc-\1\2"),
        (r"-hl-?20\d[a-z]?-", "gaudi1"),
        (r"-hl-?22\d[a-z]?-", "gaudi2"),
        (r"-hl-?3\d\d[a-z]?-", "gaudi3"),
        (r"-(rbln)-?(c[ar]\d\d)-", r"\1-\2"),
        (r"-(c[ar]\d\d)-", r"rbln-\1"),
        (r"-(?:cloud-)?ai-?100(-ultra)?-", r"qualcomm-ai100\1"),
        (r"-ascend-?310p\d?-", "ascend310p"),
        (r"-ascend-?310b?\d?-", "ascend310"),
        (r"-ascend-?910(b\dc?)-1-", r"ascend910\1-1"),
        (r"-ascend-?910(b\dc?)-", r"ascend910\1"),
        (r"-ascend-?910[a-z]*-", "ascend910"),
    )
)

_VENDORS: Final[tuple[tuple[str, str], ...]] = (
    ("mi", "AMD"), ("radeon", "AMD"), ("vega", "AMD"), ("amd", "AMD"), ("tpu", "Google"), ("inferentia", "AWS"), ("trainium", "AWS"), ("gaudi", "Intel"),
    ("flex", "Intel"), ("max", "Intel"), ("arc", "Intel"), ("intel", "Intel"), ("ascend", "Huawei"), ("rngd", "FuriosaAI"), ("warboy", "FuriosaAI"),
    ("rbln", "Rebellions"), ("qualcomm", "Qualcomm"),
)  # fmt: skip

_PCI: Final[Mapping[str, Mapping[str, str]]] = {
    "10de": {
        "1eb8": "t4", "27b8": "l4", "26b5": "l40", "26b9": "l40s", "2236": "a10", "2237": "a10g", "20b7": "a30", "2235": "a40",
        "20b0": "a100-40gb", "20f1": "a100-40gb", "20b2": "a100-80gb", "20b5": "a100-80gb", "2330": "h100-sxm", "2331": "h100-pcie", "2321": "h100-nvl",
        "2335": "h200-sxm", "233b": "h200-nvl", "2342": "gh200", "2901": "b200-sxm", "2941": "gb200", "1db1": "v100-16gb", "1db4": "v100-16gb",
        "1db5": "v100-32gb", "1db6": "v100-32gb", "102d": "k80", "2bb5": "rtx-pro-6000",
    },
    "1002": {
        "74a1": "mi300x", "74b5": "mi300x", "74a9": "mi300x", "74a0": "mi300a", "74a2": "mi308x", "74a5": "mi325x", "74b9": "mi325x", "75a0": "mi350x",
        "75b0": "mi350x", "75a3": "mi355x", "75b3": "mi355x", "740f": "mi210", "740c": "mi250", "7408": "mi250x", "738c": "mi100", "66a1": "mi60",
        "6860": "vega10", "7362": "radeon-pro-v520", "73a1": "radeon-pro-v620", "73ae": "radeon-pro-v620", "7461": "radeon-pro-v710",
        **dict.fromkeys(("1638", "1636", "15dd", "15d8", "164c", "164e", "1681", "15bf", "15c8", "150e", "1586", "1900", "1506", "13c0", "1114"), "amd-igpu"),
    },
    "8086": {
        "56c0": "flex-170", "56c1": "flex-140", "0bd5": "max-1550", "0bd6": "max-1550", "0bd9": "max-1100", "0bda": "max-1100", "0bdb": "max-1100",
        "56a0": "arc-a770", "56a1": "arc-a750", "e20b": "arc-b580", "e20c": "arc-b570", "e211": "arc-pro-b60", "e212": "arc-pro-b50",
    },
    "1da3": {"1000": "gaudi1", "1010": "gaudi1", "1001": "gaudi1", "1020": "gaudi2", "1060": "gaudi3", "1061": "gaudi3", "1062": "gaudi3", "1063": "gaudi3"},
}  # fmt: skip
"""Device ids of the PCI id database that name a part; 74b5, 74b9, 75b0 and 75b3 are virtual functions of 74a1, 74a5, 75a0 and 75a3."""

_INTEL_INTEGRATED: Final = re.compile(r"(01|04|0a|0d|0f|16|19|22|31|3e|41|45|46|4c|4e|59|5a|64|7d|87|8a|9a|9b|9b|a7|a8|b0|fd)[0-9a-f]{2}$")

_MIG: Final = re.compile(r"[-_ ]mig[-_ ](?P<profile>\d+g\.\d+gb(?:[.+](?:me|gfx|all|none)[a-z.+]*)?|(?:\d+c\.)\d+g\.\d+gb|invalid)", re.IGNORECASE)
_VGPU: Final = re.compile(r"(?:^|[-_ ])(?P<profile>\d{1,3}[abcq])$", re.IGNORECASE)
_LONGEST: Final = 256
_FORM_WORDS: Final = ("sxm", "hbm", "pcie", "nvl", "mega")
_ALIKE_PERCENT: Final = 12
_H20_3E: Final = 141
_SIZE: Final = re.compile(r"-(\d{1,3})(?:gb|gib|g)-")
_FORMS: Final = {"h100-sxm": ("pcie", "h100-pcie"), "h800-sxm": ("pcie", "h800-pcie")}


@dataclass(frozen=True, slots=True)
class Named:
    """What a name says. ``part`` is empty where it names none; ``size_gb``: memory spelled in the name; ``mig`` and ``vgpu``: profiles.

    ``bare``: it names a chip that comes in several forms, and no form.
    """

    part: str = ""
    size_gb: int | None = None
    mig: str = ""
    vgpu: str = ""
    shared: bool = False
    bare: bool = False


@lru_cache(maxsize=4096)
def read_name(text: str) -> Named:
    """Read one name. Case, separators, vendor prefixes and suffixes of form factor do not matter."""
    text = text[:_LONGEST]
    mig = _MIG.search(text)
    rest = text[: mig.start()] + text[mig.end() :] if mig else text
    words = [w for w in re.split(r"[^a-z0-9]+", rest.lower()) if w]
    shared = "shared" in words
    words = [w for w in words if w != "shared"]
    grid = "grid" in words
    vgpu = _VGPU.search("-".join(words)) if len(words) > 1 else None
    if vgpu:
        words = words[:-1]
    joined = f"-{'-'.join(words)}-"
    size = None if "gh200" in words else _SIZE.search(joined)
    size_gb = int(size[1]) if size else _H20_3E if {"h20", "3e"} <= set(words) else None
    bare = bool({"h100", "h200", "h800"} & set(words)) and not any(w.startswith(_FORM_WORDS) for w in words)
    return Named(_part(words, joined), size_gb, mig["profile"].lower() if mig else "", _profile(vgpu, grid=grid), shared, bare)


def by_memory(part: str, mib: int | None) -> str:
    """The part of this name with this memory (MiB); empty while a name of several sizes comes without one."""
    sizes = AMBIGUOUS.get(part)
    if sizes is None:
        return part
    if mib is None:
        return ""
    nearest = min(sizes, key=lambda size: (abs(size * GIB - mib), size))
    return f"{part}-{nearest}gb" if alike(nearest * GIB, mib) else ""


def alike(mib: int, other: int) -> bool:
    """True where two amounts of memory can be one device's: drivers and data sheets differ by some of it."""
    return abs(mib - other) * 100 <= _ALIKE_PERCENT * mib


def by_pci(vendor: str, device: str) -> str:
    """The part of a PCI vendor and device id (hexadecimal, no prefix); empty if it names none. Integrated GPUs are named as such."""
    vendor, device = vendor.lower(), device.lower().removeprefix("0x")
    part = _PCI.get(vendor, {}).get(device, "")
    if not part and vendor == "8086" and _INTEL_INTEGRATED.match(device):
        return "intel-igpu"
    return part


def memory_of(part: str) -> int | None:
    """Memory of one device of a part in MiB, where the part has one size."""
    return MEMORY_MIB.get(part)


def vendor_of(part: str) -> str:
    """Who makes the part; empty for none."""
    if not part:
        return ""
    return next((vendor for start, vendor in _VENDORS if part.startswith(start)), "NVIDIA")


def _profile(vgpu: re.Match[str] | None, *, grid: bool) -> str:
    if vgpu:
        return vgpu["profile"].upper()
    return "unknown" if grid else ""


def _part(words: list[str], joined: str) -> str:
    for pattern, replacement in _PHRASES:
        found = pattern.search(joined)
        if found:
            part = found.expand(replacement)
            return f"{part}-laptop" if {"laptop", "mobile"} & set(words) and vendor_of(part) == "NVIDIA" else part
    part = next((_WHOLE[w] for w in words if w in _WHOLE), "")
    if part in ("h100-sxm", "h800-sxm") and ({"pcie", "hbm2e"} & set(words)):
        return _FORMS[part][1]
    if "nvl" in words and part in ("h100-sxm", "h200-sxm"):
        return part.replace("sxm", "nvl")
    return part
