"""A call of a team's role: is its grant good here, and which groups may it use for that money? Step 2 of a decision.

Decided here: the refusal of a call whose grant is missing, not valid, or for another target, or whose cost has no bound; and the candidates left once every
group is dropped where this call, at worst, costs more than the grant allows or where nobody knows the price. Whether a grant is signed and in time is found
before (``core/grants.py``: that takes keys and a clock). A grant may be shown again for the same target until it expires: each such call has the same bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from modelfleet.api.conditions import DecisionReason
from modelfleet.core.grants import Grant, GrantError

from .answer import Refusal, Step
from .bound import CallBound
from .ir import CandidatePlan, Price

__all__ = ["Given", "Tariff", "affordable", "grant_refusal"]

Given = Grant | GrantError | None
"""What a request showed: a grant, one that is none, or nothing."""

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Tariff:
    """What each group of a target may cost: group -> (pool key, flavor) of all that may answer in it, and their prices."""

    flavors: Mapping[str, tuple[tuple[str, str], ...]]
    prices: Mapping[tuple[str, str], Price]


def grant_refusal(target: str, given: Given, bound: CallBound | None) -> Refusal | None:
    """Why this call may not go on, if so. ``bound`` None: the body was longer than what is read of it."""
    if given is None:
        return _invalid("this name is for the calls of teams: each needs a grant")
    if isinstance(given, GrantError):
        return _invalid(given.message)
    if given.target != target:
        return _invalid("the grant is for another target")
    if bound is None:
        return Refusal(413, DecisionReason.BODY_CUT, "a call with a grant must be short enough to be read whole, else its cost has no bound")
    if bound.unbounded:
        return Refusal(400, DecisionReason.ABOVE_GRANT, bound.unbounded)
    return None


def affordable(candidates: Iterable[CandidatePlan], tariff: Tariff, grant: Grant, bound: CallBound, trail: list[Step]) -> dict[str, CandidatePlan]:
    """The candidates by name, each with the groups that this call can pay; every group dropped leaves a step. One without any is left out."""
    kept: dict[str, CandidatePlan] = {}
    for candidate in candidates:
        groups = []
        for group in candidate.groups:
            why = _above(group, tariff, grant, bound)
            if why:
                trail.append(Step(DecisionReason.ABOVE_GRANT, candidate.name if group == candidate.pool.rpartition("/")[2] else group, detail=why))
            else:
                groups.append(group)
        if groups or not candidate.groups:
            kept[candidate.name] = replace(candidate, groups=tuple(groups))
    return kept


def _above(group: str, tariff: Tariff, grant: Grant, bound: CallBound) -> str:
    """Why a group may not be used; empty: it may. Compared unrounded: the runtime rounds its reservation up."""
    worst = 0
    for key in tariff.flavors.get(group, ()):
        price = tariff.prices.get(key)
        if price is None:
            return f"flavor {key[1]} has no price"
        worst = max(worst, bound.input_tokens * price.input_per_million + bound.output_tokens * price.output_per_million)
    if group not in tariff.flavors:
        return "nobody knows what it costs"
    if worst > grant.max_cost_micro_usd * _MILLION:
        return f"this call may cost {-(-worst // _MILLION)} micro-dollars there, the grant allows {grant.max_cost_micro_usd}"
    return ""


def _invalid(message: str) -> Refusal:
    return Refusal(403, DecisionReason.GRANT_INVALID, message)
