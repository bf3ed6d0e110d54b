"""Money in and out of the planner: integer micro-dollars inside, decimal strings outside.

Decided here: rounding (half-even, once, at the very end) and how many digits a person sees. No float touches money.
"""

from __future__ import annotations

from fractions import Fraction

__all__ = ["format_dollars", "format_exact"]

MICRO = 1_000_000


def format_dollars(micro: Fraction | int) -> str:
    """Micro-dollars as dollars with two decimals, or as many (at most six) as show two significant digits of a small amount.

    >>> format_dollars(6_880_000), format_dollars(12_345), format_dollars(0)
    ('6.88', '0.012', '0.00')
    """
    above, below, decimals = micro.numerator, micro.denominator * MICRO, 2
    while decimals < 6 and 0 < above * 10**decimals < 10 * below:
        decimals += 1
    # whole numbers all the way: a plan of a thousand pools formats some ten thousand amounts
    scaled, rest = divmod(above * 10**decimals, below)
    scaled += 2 * rest > below or (2 * rest == below and scaled % 2 == 1)
    text = f"{scaled // 10**decimals}.{scaled % 10**decimals:0{decimals}d}"
    while decimals > 2 and text.endswith("0"):
        text, decimals = text[:-1], decimals - 1
    return text


def format_exact(micro: int) -> str:
    """Micro-dollars as dollars without rounding, with at least two decimals: for list prices, which are contracts."""
    text = f"{micro // MICRO}.{micro % MICRO:06d}"
    while text.endswith("0") and len(text) - text.index(".") > 3:
        text = text[:-1]
    return text
