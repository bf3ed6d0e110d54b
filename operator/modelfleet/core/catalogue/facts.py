"""What a Node says that may tell its accelerators, in one record; and the answer's record.

Decided here: which fields of an object are read, and in which unit. Malformed ones are told apart from absent ones: a quantity that
is none raises, a label that makes no sense is as good as none. Not decided here: what any of it means (the readers of the vendors).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, Literal

from modelfleet.core.quantity import parse_quantity

__all__ = ["UNKNOWN", "Malformed", "NodeFacts", "Recognition", "Unit", "count_of", "mapping_at", "mebibytes", "shown", "text_of"]

UNKNOWN: Final = "unknown"
Unit = Literal["Device", "MigSlice", "TimeSlice", "VirtualGpu", "Partition", "Share", "SliceHost"]
MIB: Final = 1 << 20
_SHOWN: Final = 80
_MOST_BITS: Final = 128
_PART_KEYS: Final = re.compile(
    r"(?:.*/)?(?:accelerator|accelerator[-_.](?:type|name|model)|gpu|(?:gpu|npu|device)[-_.]?(?:type|name|model|product|class|sku)|device)"
)


class Malformed(ValueError):
    """A field of an object is not what Kubernetes allows there. The message names the field and the cure."""


@dataclass(frozen=True, slots=True)
class Recognition:
    """What an object says of its accelerators. ``devices`` are physical, ``memory_mib`` is per device; None: the object does not tell.

    ``unit``: what one unit of the node's resource is, and ``profile`` which (``1g.10gb``, ``DPX``, ``40C``).
    """

    part: str = UNKNOWN
    devices: int | None = None
    memory_mib: int | None = None
    unit: Unit = "Device"
    profile: str = ""

    @property
    def memory_gib(self) -> Decimal | None:
        """Memory per device in GiB, to one decimal."""
        return None if self.memory_mib is None else (Decimal(self.memory_mib) / 1024).quantize(Decimal("0.1"))


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """The fields of a Node that tell. ``amounts``: whole units of extended resources, of capacity before allocatable."""

    labels: Mapping[str, str]
    amounts: Mapping[str, int]
    annotations: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    architecture: str = ""
    taint_values: tuple[str, ...] = ()

    @staticmethod
    def of(raw: Mapping[str, Any]) -> NodeFacts:
        """The facts of a Node as the API server writes it. Raises Malformed."""
        metadata, spec, status = (mapping_at(raw, part) for part in ("metadata", "spec", "status"))
        labels = _texts(metadata, "labels")
        amounts = {**_amounts(status, "allocatable"), **_amounts(status, "capacity")}
        listed = spec.get("taints")
        given = [t for t in listed if isinstance(t, Mapping)] if isinstance(listed, list) else []
        taints = tuple(text_of(t.get("key"), "spec.taints[].key") for t in given)
        info = mapping_at(status, "nodeInfo", "status.nodeInfo")
        architecture = text_of(info.get("architecture"), "status.nodeInfo.architecture")
        values = tuple(text_of(t.get("value"), "spec.taints[].value") for t in given)
        return NodeFacts(labels, amounts, _texts(metadata, "annotations"), taints, architecture, values)

    def label(self, *keys: str) -> str:
        """The first of these labels that is there and not empty; empty if none is."""
        return next((self.labels[k] for k in keys if self.labels.get(k)), "")

    def set_labels(self) -> Iterator[str]:
        """Keys of the labels that do not say ``false``."""
        return (k for k, v in self.labels.items() if v != "false")

    def ending(self, *suffixes: str) -> str:
        """The first label (by key) whose key ends so; platforms put their own domain before a common name."""
        return next((v for k, v in sorted(self.labels.items()) if v and k.endswith(suffixes)), "")

    def written_by_people(self) -> Iterator[str]:
        """Values of the labels under which people and tools write a part's name, whatever the vendor (``accelerator``, ``gpu-model``)."""
        return (v for k, v in sorted(self.labels.items()) if v and _names_a_part(k))

    def number(self, *keys: str) -> int | None:
        """The first of these labels that is a whole number above zero."""
        return next((n for n in (count_of(self.labels.get(k)) for k in keys) if n), None)

    def resources(self, pattern: str) -> Iterator[tuple[str, int]]:
        """Resources whose whole name matches, by name, with their quantity."""
        compiled = re.compile(pattern)
        return ((k, v) for k, v in sorted(self.amounts.items()) if compiled.fullmatch(k))

    def total(self, pattern: str) -> int:
        """Sum of the quantities of the resources that match."""
        return sum(quantity for _, quantity in self.resources(pattern))


@lru_cache(maxsize=4096)
def _names_a_part(key: str) -> bool:
    return _PART_KEYS.fullmatch(key) is not None


def count_of(text: str | None) -> int | None:
    """A label's whole number; None for anything else."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 16 else None


_MEMORY: Final = re.compile(r"(?P<number>\d{1,18}(?:\.\d{1,6})?)\s*(?P<unit>[kmgt]?)(?P<rest>i?b?)$", re.IGNORECASE)
_STEPS: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_GIB: Final = 1 << 30
_MOST_GIB: Final = 512
_MOST_MIB: Final = 1 << 22


def mebibytes(text: str | None) -> int | None:
    """Memory in MiB as labels write it; None if it is no amount above zero.

    Labels mean powers of two whatever they write (``191G``, ``80GB``). A bare number is in the unit that makes it the memory of a device:
    GiB up to 512, MiB below four million, then KiB, and bytes from a thousand million (an older feature discovery).
    """
    found = _MEMORY.match(text.strip()) if text else None
    if found is None:
        return None
    number, unit = Decimal(found["number"]), found["unit"].lower()
    if unit or found["rest"].lower() == "b":
        return int(number * _STEPS.get(unit, 1) / MIB) or None
    step = _GIB if number <= _MOST_GIB else MIB if number < _MOST_MIB else 1 << 10 if number < _GIB else 1
    return int(number * step / MIB) or None


def mapping_at(raw: Mapping[str, Any], key: str, path: str = "") -> Mapping[str, Any]:
    """A part of an object that must be a mapping if it is there. Raises Malformed."""
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Malformed(f"{path or key}: {shown(value)} is not a mapping: write keys and values below it")
    return value


def text_of(value: Any, path: str = "") -> str:
    """A scalar as Kubernetes would hold it: YAML reads an unquoted ``true`` or ``74`` as something else than text. Raises Malformed."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, (int, float, date)) or (isinstance(value, int) and value.bit_length() > _MOST_BITS):
        raise Malformed(f"{path}: {shown(value)} is no text: write one value" if path else f"{shown(value)} is no text: write one value")
    return str(value).lower() if isinstance(value, bool) else str(value)


def shown(value: Any) -> str:
    """A value as a message shows it: short, whatever it is. Aliases make a small file's values larger than memory."""
    if isinstance(value, (str, bytes)):
        return repr(value[:_SHOWN])
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"a number of {value.bit_length()} bits"
    if value is None or isinstance(value, (int, float, date)):
        return str(value)
    return "a mapping" if isinstance(value, Mapping) else "a list" if isinstance(value, (list, tuple)) else f"a {type(value).__name__}"


def _texts(metadata: Mapping[str, Any], key: str) -> dict[str, str]:
    path = f"metadata.{key}"
    return {text_of(k, path): text_of(v, path) for k, v in mapping_at(metadata, key, path).items()}


def _amounts(status: Mapping[str, Any], key: str) -> dict[str, int]:
    amounts = {}
    for written, value in mapping_at(status, key, f"status.{key}").items():
        name = text_of(written, f"status.{key}")
        if "/" not in name:
            continue
        try:
            number = parse_quantity(text_of(value))
        except ValueError:
            number = Decimal(-1)
        if number < 0 or number != number.to_integral_value() or number > Decimal(10**18):
            raise Malformed(f'status.{key}["{name[:_SHOWN]}"]: {shown(value)} is no count of devices: write a whole number, zero or more')
        amounts[name] = int(number)
    return amounts
