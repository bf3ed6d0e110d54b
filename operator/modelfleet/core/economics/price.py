"""What a flavor costs: per hour, per million tokens at full load, and live.

The only cost model: routers and status read their prices from here. No price known means None and never a guess.
Where only an output rate is declared, ten input tokens count as one output token: the last resort for want of a
measured prefill rate, good for ranking and no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from modelfleet.api.v1alpha1 import AcceleratorClass
from modelfleet.api.v1alpha1.common import parse_money
from modelfleet.api.v1alpha1.modelpool import Flavor
from modelfleet.core.world import Served

__all__ = ["TokenPrice", "cost_per_hour", "full_load_price", "list_price", "live_per_million"]

INPUT_TOKENS_PER_OUTPUT_TOKEN: Final = 10
SECONDS_PER_HOUR: Final = 3600


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """Micro-dollars per million tokens."""

    input_per_million: Fraction
    output_per_million: Fraction


def cost_per_hour(units: int, accelerator: AcceleratorClass | None) -> int | None:
    """Micro-dollars per hour of one replica that asks for ``units`` of the class's resource: devices, or millicores of a cpu class, whose price is per core.

    None for an unknown class or one without a price.
    """
    if accelerator is None or accelerator.spec.price is None:
        return None
    per_device = parse_money(accelerator.spec.price.per_device_hour)
    return round(Fraction(units * per_device, 1000 if accelerator.spec.nodes[0].resource == "cpu" else 1))


def full_load_price(per_hour: int | None, tokens_per_second: int | None) -> TokenPrice | None:
    """What a million tokens costs on a replica that is always busy; None while its cost or its rate is unknown."""
    if per_hour is None or not tokens_per_second:
        return None
    output = Fraction(per_hour * 1_000_000, SECONDS_PER_HOUR * tokens_per_second)
    return TokenPrice(output / INPUT_TOKENS_PER_OUTPUT_TOKEN, output)


def list_price(flavor: Flavor) -> TokenPrice | None:
    """What a remote endpoint charges; None for pods."""
    if flavor.endpoint is None:
        return None
    price = flavor.endpoint.price
    return TokenPrice(Fraction(parse_money(price.input_per_million)), Fraction(parse_money(price.output_per_million)))


def live_per_million(pods_per_hour: int, served: Iterable[tuple[Served, TokenPrice | None]]) -> Fraction | None:
    """Micro-dollars paid per million tokens served in the window: pods by time, endpoints (those with a price here) by token. None when nothing was served."""
    paid, tokens, window = Fraction(0), 0, Fraction(0)
    for record, price in served:
        tokens += record.input_tokens + record.output_tokens
        window = max(window, Fraction(record.window))
        if price is not None:
            paid += (record.input_tokens * price.input_per_million + record.output_tokens * price.output_per_million) / 1_000_000
    if tokens <= 0:
        return None
    paid += pods_per_hour * window / SECONDS_PER_HOUR
    return paid * 1_000_000 / tokens
