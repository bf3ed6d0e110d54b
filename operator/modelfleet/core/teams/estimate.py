"""What a run of a team may cost before it starts: from the strategy's bound, what is behind each role, and the price table.

The same figures stand in ``status.bounds``. Worst and minimum are promises, not guesses: a run whose providers keep to ``max_tokens`` settles between them
(retries apart). What a run is likely to cost is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet.core.teams.budget import cost, unpriced
from modelfleet.core.teams.ir import PriceTable, RoleTarget, TeamPlan, TokenPrice
from modelfleet.core.teams.strategies.protocol import Bound, RoleBound
from modelfleet.core.teams.tokens import LONGEST_TOKEN_BYTES, PER_CALL, PER_MESSAGE

__all__ = ["Estimate", "estimate"]

MESSAGES_PER_CALL = 2
"""Instructions and task: no strategy sends more."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bounds of one run, in micro-dollars; None: a price is unknown, or nothing is behind a role that may be asked.

    ``worst_prices``: role -> the dearest price its calls may meet (input and output may come from different flavors). ``unpriced``: sorted (pool, flavor).
    """

    max_model_calls: int
    worst_micro_usd: int | None
    minimum_micro_usd: int | None
    worst_prices: Mapping[str, TokenPrice | None]
    unpriced: tuple[tuple[str, str], ...] = ()


def estimate(bound: Bound, plan: TeamPlan, targets: Mapping[str, RoleTarget], prices: PriceTable) -> Estimate:
    """Price a bound. ``targets``: role -> what is behind it; a role that is missing there has nothing behind it."""
    flavors = {role: targets[role].flavors if role in targets else () for role in sorted(plan.roles)}
    dearest = {role: _price_of(flavors[role], prices, dearest=True) for role in flavors}
    cheapest = {role: _price_of(flavors[role], prices, dearest=False) for role in flavors}
    asked = [(role, figures) for role, figures in sorted(bound.roles.items()) if figures.max_calls]
    worst = [_worst(figures, dearest.get(role), _schema_bytes(plan, role)) for role, figures in asked]
    least = [_least(figures, cheapest.get(role)) for role, figures in asked if figures.min_calls]
    return Estimate(
        max_model_calls=bound.max_calls,
        worst_micro_usd=_total(worst),
        minimum_micro_usd=_total(least),
        worst_prices=dearest,
        unpriced=unpriced((flavor for of_role in flavors.values() for flavor in of_role), prices),
    )


def _price_of(flavors: tuple[tuple[str, str], ...], prices: PriceTable, *, dearest: bool) -> TokenPrice | None:
    known = [prices[flavor] for flavor in flavors if flavor in prices]
    if not flavors or len(known) < len(flavors):
        return None
    pick = max if dearest else min
    return TokenPrice(pick(price.input_per_million for price in known), pick(price.output_per_million for price in known))


def _worst(figures: RoleBound, price: TokenPrice | None, schema_bytes: int) -> int | None:
    if price is None:
        return None
    prompt = figures.max_prompt_bytes + figures.max_calls * (schema_bytes + PER_CALL + MESSAGES_PER_CALL * PER_MESSAGE)
    # every call is rounded up on its own, which adds less than one micro-dollar to each but the last
    return cost(prompt, figures.max_completion_tokens, price) + figures.max_calls - 1


def _least(figures: RoleBound, price: TokenPrice | None) -> int | None:
    # an answer may be empty, so only the prompt is certain
    return None if price is None else cost(-(-figures.min_prompt_bytes // LONGEST_TOKEN_BYTES), 0, price)


def _schema_bytes(plan: TeamPlan, role: str) -> int:
    schema = plan.roles[role].schema if role in plan.roles else None
    return len(schema.encode()) if schema else 0


def _total(parts: list[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
