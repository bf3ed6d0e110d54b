"""Quantities as the API server stores them, so that what we want and what it holds compare equal.

The server rewrites ``1000m`` to ``1``, ``1024Mi`` to ``1Gi`` and ``0.5`` to ``500m``: no fraction, the largest suffix
that needs none, and binary suffixes stay binary.
"""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["canonical_quantity"]

_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")
_DECIMAL = [("E", 18), ("P", 15), ("T", 12), ("G", 9), ("M", 6), ("k", 3), ("", 0), ("m", -3), ("u", -6), ("n", -9)]
_BINARY = [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)]


def canonical_quantity(text: str) -> str:
    """The canonical form of a quantity; raises ValueError for what is none.

    >>> canonical_quantity("1000m"), canonical_quantity("0.5Gi"), canonical_quantity("2000")
    ('1', '512Mi', '2k')
    """
    matched = _QUANTITY.match(text)
    if matched is None:
        raise ValueError(f"{text!r} is not a quantity: write 500m, 2 or 16Gi")
    number, suffix = Fraction(matched.group(1)), matched.group(2) or ""
    if suffix.endswith("i"):
        return _canonical_binary(number * 2 ** dict(_BINARY)[suffix])
    return _canonical_decimal(number * Fraction(10) ** dict(_DECIMAL)[suffix])


def _canonical_binary(value: Fraction) -> str:
    if value.denominator != 1:
        return _canonical_decimal(value)
    for suffix, power in _BINARY:
        if value and value % 2**power == 0:
            return f"{int(value / 2**power)}{suffix}"
    return str(int(value))


def _canonical_decimal(value: Fraction) -> str:
    for suffix, power in _DECIMAL:
        scaled = value / Fraction(10) ** power
        if scaled.denominator == 1 and (scaled or not suffix):
            return f"{int(scaled)}{suffix}"
    nano = -int(-(value * 10**9) // 1)
    return f"{nano}n"
