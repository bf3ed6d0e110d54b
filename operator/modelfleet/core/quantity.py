"""Kubernetes quantities as exact numbers.

Decided here: what ``100m``, ``4Gi`` or ``2e3`` means. Not decided here: the unit a reader wants (``kube/records.py`` rounds to whole
units, the catalogue reads memory in MiB).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Final

__all__ = ["parse_quantity"]

_SUFFIXES: Final[Mapping[str, Decimal]] = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip


@lru_cache(maxsize=4096)
def parse_quantity(text: str) -> Decimal:
    """The number that a Kubernetes quantity such as ``100m``, ``4Gi`` or ``2e3`` means; raises ValueError on anything else."""
    text = text.strip()
    suffix = text[-2:] if text[-2:] in _SUFFIXES else text[-1:] if text[-1:] in _SUFFIXES else ""
    try:
        number = Decimal(text[: len(text) - len(suffix)] if suffix else text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a quantity: write 500m, 2 or 4Gi") from None
    if not number.is_finite():
        raise ValueError(f"{text!r} is not a quantity: it is not finite")
    return number * _SUFFIXES[suffix]
