"""Status of an AgentTeam: is it accepted, what answers for its roles, what does a run take, and may it be called.

Decided here: conditions and figures, from the compiled plans. The condition Programmed is the team runtime's and the entries of ``status.gateways`` are the
routers'; both are read here and never written. Worst and minimum are the bounds of the strategy, priced (``core/teams/estimate.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from modelfleet.api.conditions import AgentTeamReason, ConditionType
from modelfleet.api.v1alpha1 import AgentTeam
from modelfleet.api.v1alpha1.agentteam import Bounds, MapReduce, RoleStatus, WorstPrice
from modelfleet.core.clock import Clock
from modelfleet.core.economics.money import format_exact
from modelfleet.core.teams.budget import reservation
from modelfleet.core.teams.estimate import Estimate, estimate
from modelfleet.core.teams.ir import Problem, RoleTarget, TeamPlan, TeamsPlan, TokenPrice
from modelfleet.core.teams.strategies import strategy_of
from modelfleet.core.teams.strategies.protocol import InputSize, Strategy, Task
from modelfleet.core.teams.tokens import prompt_bound

from .conditions import Finding, merge_conditions, to_wire

__all__ = ["agentteam_status", "largest_input"]

BYTES_PER_TOKEN: Final = 4
"""As the strategies count when they split a document."""

QUESTION_BYTES: Final = 4096
"""Of the question that bounds are told for; a run is asked whatever its client asks, within ``perRun``."""

DOCUMENT_BYTES: Final = 256 * 1024
"""Of the document that bounds are told for where the strategy sets no limit of its own."""

_SMALLEST: Final = InputSize(1, 0)
_WAITING: Final = frozenset({AgentTeamReason.PENDING, AgentTeamReason.RUNTIME_UNAVAILABLE, AgentTeamReason.ROLE_UNAVAILABLE})
"""Reasons that pass by themselves, or that somebody else than the team's author sees to."""


@dataclass(frozen=True, slots=True)
class _Cost:
    """What a run takes: ``most`` over the largest input, ``least`` over the smallest, ``unaffordable`` why no run can pay its way (or empty)."""

    most: Estimate
    least: Estimate
    unaffordable: str


def agentteam_status(team: AgentTeam, plans: TeamsPlan, settled: frozenset[str], now: datetime) -> dict[str, Any]:
    """The operator's part of the status. ``settled``: keys of the pools whose status tells the prices of their present spec."""
    plan, targets, generation = plans.teams.get(team.key), plans.targets.get(team.key, {}), team.metadata.generation
    cost = None if plan is None else _cost(plan, targets, plans)
    problems = [p for p in plans.problems if p.team == team.key]
    accepted, resolved = _accepted(team, problems), _resolved(problems)
    priced, for_ever = _priced(plan, cost, settled)
    parts = [accepted, resolved, priced, _programmed(team), _roles_ready(targets)]
    written = [accepted, resolved, priced, *_summary(team, parts, for_ever=for_ever)]
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "strategy": "chain" if team.spec.strategy.chain is not None else "mapReduce",
        "modelNames": [name for name in (team.key, team.metadata.name) if plans.names.get(name) == team.key],
        "roles": [_role(name, team, targets, cost).to_wire() for name in sorted(targets)],
        "conditions": to_wire(merge_conditions(team.status.conditions, written, Clock(now), generation)),
    }
    if plan is not None and cost is not None:
        status |= {"revision": plan.revision, "bounds": _bounds(cost).to_wire()}
    return status


def largest_input(plan: TeamPlan) -> InputSize:
    """The input that a team's bounds are told for: the largest document that its strategy cuts into chunks, else ``DOCUMENT_BYTES``."""
    if isinstance(plan.strategy, MapReduce) and plan.strategy.split.by == "Chunk" and plan.strategy.split.tokens is not None:
        split = plan.strategy.split
        tokens = split.max_items * plan.strategy.split.tokens - (split.max_items - 1) * split.overlap
        return InputSize(QUESTION_BYTES, tokens * BYTES_PER_TOKEN)
    return InputSize(QUESTION_BYTES, DOCUMENT_BYTES)


# --- figures ---


def _cost(plan: TeamPlan, targets: Mapping[str, RoleTarget], plans: TeamsPlan) -> _Cost:
    strategy = strategy_of(plan)
    most = estimate(strategy.bound(plan, largest_input(plan)), plan, targets, plans.prices)
    bound = strategy.bound(plan, _SMALLEST)
    least = estimate(bound, plan, targets, plans.prices)
    fewest = sum(role.min_calls for role in bound.roles.values())
    return _Cost(most, least, _unaffordable(plan, strategy, least, fewest))


def _unaffordable(plan: TeamPlan, strategy: Strategy, least: Estimate, fewest: int) -> str:
    budget = plan.budget
    if fewest > budget.model_calls:
        return f"a run makes {fewest} calls at least, budget.perRun.modelCalls is {budget.model_calls}"
    if budget.cost_micro_usd is not None and least.minimum_micro_usd is not None and least.minimum_micro_usd > budget.cost_micro_usd:
        return f"a run costs {format_exact(least.minimum_micro_usd)} at least, budget.perRun.cost is {format_exact(budget.cost_micro_usd)}"
    return _unaffordable_end(plan, strategy, least.worst_prices) if budget.finalize else ""


def _unaffordable_end(plan: TeamPlan, strategy: Strategy, prices: Mapping[str, TokenPrice | None]) -> str:
    """Every run begins by setting its last call aside: one that does not fit lets none begin."""
    call = strategy.finalizing_call(plan, Task("?"))
    price = prices.get(call.role)
    held = reservation(prompt_bound(call.messages, call.schema), call.max_tokens, [TokenPrice(0, 0) if price is None else price])
    budget = plan.budget
    what = f"with onExhausted Finalize each run sets aside one last call of role {call.role}"
    cure = "raise it, lower the role's sampling.maxTokens, or choose Fail"
    if price is not None and budget.cost_micro_usd is not None and held.micro_usd > budget.cost_micro_usd:
        return f"{what}, {format_exact(held.micro_usd)} dollars; budget.perRun.cost is {format_exact(budget.cost_micro_usd)}: {cure}"
    if budget.tokens is not None and held.tokens > budget.tokens:
        return f"{what}, {held.tokens} tokens; budget.perRun.tokens is {budget.tokens}: {cure}"
    return ""


def _bounds(cost: _Cost) -> Bounds:
    worst, least = cost.most.worst_micro_usd, cost.least.minimum_micro_usd
    return Bounds(
        max_model_calls=cost.most.max_model_calls,
        worst_cost=None if worst is None else format_exact(worst),
        minimum_cost=None if least is None else format_exact(least),
    )


def _role(name: str, team: AgentTeam, targets: Mapping[str, RoleTarget], cost: _Cost | None) -> RoleStatus:
    source = next(role.model_from for role in team.spec.roles if role.name == name)
    kind, ref = ("pool", source.model_pool_ref) if source.model_pool_ref is not None else ("policy", source.routing_policy_ref)
    price = None if cost is None else cost.most.worst_prices.get(name)
    return RoleStatus(
        name=name,
        target=f"{kind}:{team.metadata.namespace}/{ref.name if ref else ''}",
        ready=targets[name].usable,
        candidates=targets[name].candidates,
        worst_price=None
        if price is None
        else WorstPrice(input_per_million=format_exact(price.input_per_million), output_per_million=format_exact(price.output_per_million)),
    )


# --- conditions ---


def _accepted(team: AgentTeam, problems: Sequence[Problem]) -> Finding:
    finding = _from_problems(ConditionType.ACCEPTED, AgentTeamReason.ACCEPTED, problems)
    if finding.status and team.spec.suspend:
        return Finding(ConditionType.ACCEPTED, True, AgentTeamReason.SUSPENDED, "spec.suspend is true: no new runs")
    return finding


def _resolved(problems: Sequence[Problem]) -> Finding:
    return _from_problems(ConditionType.RESOLVED_REFS, AgentTeamReason.RESOLVED_REFS, problems)


def _from_problems(type_: ConditionType, good: AgentTeamReason, problems: Sequence[Problem]) -> Finding:
    found = [p for p in problems if p.type == type_]
    return Finding(type_, False, found[0].reason, "; ".join(p.message for p in found)) if found else Finding(type_, True, good)


def _priced(plan: TeamPlan | None, cost: _Cost | None, settled: frozenset[str]) -> tuple[Finding, bool]:
    """Whether a run can be paid, and (when not) whether only the user can change that."""
    if plan is None or cost is None:
        return Finding(ConditionType.PRICED, None, AgentTeamReason.PENDING, "known once the team is accepted and its references resolve"), False
    if cost.most.unpriced:
        lacking = ", ".join(f"{pool} flavor {flavor}" for pool, flavor in cost.most.unpriced)
        cure = "a price on its AcceleratorClass and capacity.tokensPerSecond on the flavor give one"
        for_ever = all(pool in settled for pool, _ in cost.most.unpriced)
        return Finding(ConditionType.PRICED, False, AgentTeamReason.PRICE_UNKNOWN, f"no price is known of {lacking}: {cure}"), for_ever
    if cost.most.worst_micro_usd is None:
        empty = ", ".join(name for name, price in sorted(cost.most.worst_prices.items()) if price is None)
        return Finding(ConditionType.PRICED, False, AgentTeamReason.PRICE_UNKNOWN, f"nothing is behind {empty}: no ModelPool of its RoutingPolicy exists"), True
    if cost.unaffordable:
        return Finding(ConditionType.PRICED, False, AgentTeamReason.BUDGET_BELOW_MINIMUM, cost.unaffordable), True
    return Finding(ConditionType.PRICED, True, AgentTeamReason.PRICED), False


def _programmed(team: AgentTeam) -> Finding:
    """What the runtime says of this generation; what it said of another is no news."""
    said = next((c for c in team.status.conditions if c.type == ConditionType.PROGRAMMED), None)
    if said is None or said.observed_generation < team.metadata.generation:
        return Finding(ConditionType.PROGRAMMED, None, AgentTeamReason.PENDING, f"the team runtime has not loaded generation {team.metadata.generation} yet")
    return Finding(ConditionType.PROGRAMMED, said.status == "True", said.reason, said.message)


def _roles_ready(targets: Mapping[str, RoleTarget]) -> Finding:
    down = sorted(name for name, target in targets.items() if not target.usable)
    if down:
        return Finding(ConditionType.READY, False, AgentTeamReason.ROLE_UNAVAILABLE, f"nothing can answer for {', '.join(down)} now")
    return Finding(ConditionType.READY, True, AgentTeamReason.READY)


def _summary(team: AgentTeam, parts: Sequence[Finding], *, for_ever: bool) -> list[Finding]:
    """Ready is all parts together; Stalled when only the team's author can help; Reconciling while something else is awaited."""
    bad = [part for part in parts if not part.status]
    fatal = next((p for p in bad if _is_fatal(p, for_ever=for_ever)), None)
    first = bad[0] if bad else None
    if first is None:
        reason = AgentTeamReason.SUSPENDED if team.spec.suspend else AgentTeamReason.READY
        ready = Finding(ConditionType.READY, True, reason, "no new runs: spec.suspend is true" if team.spec.suspend else "")
    else:
        ready = Finding(ConditionType.READY, False, first.reason, first.message)
    return [
        ready,
        Finding(ConditionType.RECONCILING, first is not None and fatal is None, ready.reason, ready.message if first is not None and fatal is None else ""),
        Finding(
            ConditionType.STALLED,
            fatal is not None,
            fatal.reason if fatal is not None else AgentTeamReason.NOT_STALLED,
            fatal.message if fatal is not None else "",
        ),
    ]


def _is_fatal(part: Finding, *, for_ever: bool) -> bool:
    return for_ever if part.type is ConditionType.PRICED else part.status is False and part.reason not in _WAITING
