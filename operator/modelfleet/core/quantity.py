"""Kubernetes quantities as exact numbers.

Decided here: what ``100m``, ``4Gi`` or ``2e3`` means. Not decided here: the unit a reader wants (``kube/records.py`` rounds to whole
units, the catalogue reads memory in MiB).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Final

__all__ = ["parse_quantity"]

_SUFFIXES: Final[Mapping[str, Decimal]] = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip
_QUANTITY: Final = re.compile(r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4}(?=$))?)(?P<suffix>[numkMGTPE]|[KMGTPE]i)?")
_LONGEST: Final = 64
_MOST: Final = 40
"""Powers of ten: nothing that a machine has is larger, and exact arithmetic on what is would not end."""


@lru_cache(maxsize=4096)
def parse_quantity(text: str) -> Decimal:
    """The number that a Kubernetes quantity such as ``100m``, ``4Gi`` or ``2e3`` means; raises ValueError on anything else."""
    text = text.strip()
    found = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise ValueError(f"{text[:_LONGEST]!r} is not a quantity: write 500m, 2 or 4Gi")
    number = Decimal(found["number"])
    if abs(number.adjusted()) > _MOST:
        raise ValueError(f"{text!r} is not a quantity: it is beyond what a machine can have")
    return number * _SUFFIXES[found["suffix"] or ""]
