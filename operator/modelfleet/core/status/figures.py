"""Figures of a ModelPool's status: prices, cost, tokens per second.

Scraped figures are rounded and keep their last value while they move little, so that a steady fleet is not rewritten. They also keep
it while the telemetry is stale or its window is shorter than a minute: an operator that has just begun to look knows less than the status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.api.v1alpha1.modelpool import Cost, Flavor, FlavorPrice, PerMillionTokens
from modelfleet.core.economics.money import format_dollars, format_exact
from modelfleet.core.economics.price import TokenPrice, cost_per_hour, full_load_price, list_price, live_per_million
from modelfleet.core.placement.decision import PoolDecision
from modelfleet.core.placement.facts import PodFacts
from modelfleet.core.placement.surroundings import SPELLS, Surroundings
from modelfleet.core.world import Served

__all__ = ["Figures", "figures_of", "two_digits"]

STEADY: Final = Fraction(1, 10)
"""A scraped figure that moved by no more than a tenth since it was written is left as it is."""


@dataclass(frozen=True, slots=True)
class Figures:
    """By flavor where a mapping, micro-dollars where money. A flavor without a price is absent from the mappings.

    ``cost`` is absent while a running flavor has no price.
    """

    replica_per_hour: Mapping[str, int]
    full_load: Mapping[str, TokenPrice]
    prices: tuple[FlavorPrice, ...]
    cost: Cost | None
    tokens_per_second: str | None


def figures_of(near: Surroundings, decision: PoolDecision) -> Figures:
    """All figures of a pool."""
    pool = near.pool
    replica: dict[str, int] = {}
    full_load: dict[str, TokenPrice] = {}
    listed: dict[str, TokenPrice] = {}
    for flavor, accelerator in zip(pool.spec.flavors, near.classes, strict=True):
        facts = decision.flavor(flavor.name).facts
        per_hour = cost_per_hour(facts.units, accelerator) if isinstance(facts, PodFacts) else None
        if per_hour is not None:
            replica[flavor.name] = per_hour
        at_full_load = full_load_price(per_hour, flavor.capacity.tokens_per_second if flavor.capacity else None)
        if at_full_load is not None:
            full_load[flavor.name] = at_full_load
        on_list = list_price(flavor)
        if on_list is not None:
            listed[flavor.name] = on_list
    served = [s for s in near.served if 0 < s.window <= 3600 and s.input_tokens >= 0 and s.output_tokens >= 0]
    # a window that has just begun says little, but where nothing was known it says more than nothing
    longest, first = SPELLS
    known = near.fresh and near.seen_for >= (longest if _has_figures(pool) else first)
    return Figures(
        replica,
        full_load,
        tuple(p for f in pool.spec.flavors if (p := _price_of(f, full_load, listed)) is not None),
        _cost(pool, decision, replica, listed, served, known=known),
        _rate(pool, served) if known else pool.status.tokens_per_second,
    )


def two_digits(value: Fraction) -> int:
    """A whole number rounded to two significant digits."""
    whole = round(value)
    step = int("1".ljust(len(str(abs(whole))) - 1, "0"))
    return round(Fraction(whole, step)) * step


def _has_figures(pool: ModelPool) -> bool:
    cost = pool.status.cost
    return cost is not None and cost.per_million_tokens.live is not None


def _price_of(flavor: Flavor, full_load: Mapping[str, TokenPrice], listed: Mapping[str, TokenPrice]) -> FlavorPrice | None:
    name = flavor.name
    if name in listed:
        into, out = format_exact(int(listed[name].input_per_million)), format_exact(int(listed[name].output_per_million))
    elif name in full_load:
        into, out = format_dollars(full_load[name].input_per_million), format_dollars(full_load[name].output_per_million)
    else:
        return None
    return FlavorPrice(flavor=name, input_per_million=into, output_per_million=out)


def _cost(
    pool: ModelPool, decision: PoolDecision, replica: Mapping[str, int], listed: Mapping[str, TokenPrice], served: list[Served], *, known: bool
) -> Cost | None:
    paid = {f.name: paying_replicas(f.facts) for f in decision.flavors if isinstance(f.facts, PodFacts)}
    if any(count and name not in replica for name, count in paid.items()):
        return None
    per_hour = sum(count * replica[name] for name, count in paid.items() if count)
    before = pool.status.cost.per_million_tokens.live if pool.status.cost else None
    if not known:
        return Cost(per_hour=format_dollars(per_hour), per_million_tokens=PerMillionTokens(live=before))
    live = live_per_million(per_hour, [(s, listed.get(s.flavor)) for s in served])
    return Cost(per_hour=format_dollars(per_hour), per_million_tokens=PerMillionTokens(live=None if live is None else _steady(before, live)))


def paying_replicas(facts: PodFacts) -> int:
    """Replicas whose devices are paid for: starting and draining ones included."""
    return facts.bound + facts.draining


def _steady(before: str | None, micro: Fraction) -> str:
    known = Fraction(Decimal(before)) * 1_000_000 if before else None
    if before and known and abs(micro - known) <= known * STEADY:
        return before
    return format_dollars(micro)


def _rate(pool: ModelPool, served: list[Served]) -> str:
    rate = sum((Fraction(s.output_tokens) / Fraction(s.window) for s in served), Fraction(0))
    before = pool.status.tokens_per_second
    if before and before.isdecimal() and int(before) and abs(rate - int(before)) <= int(before) * STEADY:
        return before
    return str(two_digits(rate))
