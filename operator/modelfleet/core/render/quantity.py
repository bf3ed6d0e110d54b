"""Quantities as the API server stores them, so that what we want and what it holds compare equal.

The server rewrites ``1000m`` to ``1``, ``1024Mi`` to ``1Gi`` and ``0.5`` to ``500m``: no fraction, the largest suffix
that needs none, and binary suffixes stay binary.
"""

from __future__ import annotations

import re

__all__ = ["canonical_quantity"]

_QUANTITY = re.compile(r"^([0-9]+)(?:\.([0-9]+))?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")
_DECIMAL = {"E": 18, "P": 15, "T": 12, "G": 9, "M": 6, "k": 3, "": 0, "m": -3, "u": -6, "n": -9}
_BINARY = {"Ei": 60, "Pi": 50, "Ti": 40, "Gi": 30, "Mi": 20, "Ki": 10}
_NANO = 9


def canonical_quantity(text: str) -> str:
    """The canonical form of a quantity; raises ValueError for what is none.

    >>> canonical_quantity("1000m"), canonical_quantity("0.5Gi"), canonical_quantity("2000")
    ('1', '512Mi', '2k')
    """
    matched = _QUANTITY.match(text)
    if matched is None:
        raise ValueError(f"{text!r} is not a quantity: write 500m, 2 or 16Gi")
    whole, decimals, suffix = matched.group(1), matched.group(2) or "", matched.group(3) or ""
    # digits over a power of ten: a plan of a thousand pools writes some ten thousand quantities, and fractions are slow
    digits, places = int(whole + decimals), len(decimals)
    if suffix in _BINARY:
        return _canonical_binary(digits << _BINARY[suffix], places)
    return _canonical_decimal(digits, places - _DECIMAL[suffix])


def _canonical_binary(digits: int, places: int) -> str:
    value, rest = divmod(digits, 10**places)
    if rest:
        return _canonical_decimal(digits, places)
    for suffix, power in _BINARY.items():
        if value and not value & ((1 << power) - 1):
            return f"{value >> power}{suffix}"
    return str(value)


def _canonical_decimal(digits: int, places: int) -> str:
    """``digits / 10**places`` with the largest suffix that needs no fraction; below a billionth it is rounded up."""
    if places > _NANO:
        digits, places = -(-digits // 10 ** (places - _NANO)), _NANO
    for suffix, power in list(_DECIMAL.items())[:-1]:
        value, rest = divmod(digits, 10 ** (places + power)) if places + power >= 0 else (digits * 10 ** -(places + power), 0)
        if not rest and (value or not suffix):
            return f"{value}{suffix}"
    return f"{digits * 10 ** (_NANO - places)}n"
