"""Teams, pools and policies -> TeamsPlan: what each team means, who answers for its roles, under which names it is served, and what is wrong with it.

Decided here, from the objects alone and the same in every process: resolved roles, names, prices, revision. A team that cannot run keeps its names, so that
who has a short one does not change with its neighbours' faults. Not decided here: how a run proceeds (``strategies/``), and what status says of it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from modelfleet.api.conditions import AgentTeamReason, ConditionType, ModelPoolReason
from modelfleet.api.v1alpha1 import AgentTeam, ModelPool, RoutingPolicy
from modelfleet.api.v1alpha1.agentteam import Budget, Chain, MapReduce, Role
from modelfleet.api.v1alpha1.common import parse_duration, parse_money
from modelfleet.errors import Bug

from .checks import answering_role, schema_faults, strategy_faults
from .ir import BudgetPlan, PriceTable, Problem, RolePlan, RoleTarget, Target, TeamPlan, TeamsPlan, TokenPrice
from .schema import canonical

__all__ = ["compile_teams", "revision_of"]

_MAX_FAULTS = 8


def compile_teams(teams: Iterable[AgentTeam], pools: Iterable[ModelPool], policies: Iterable[RoutingPolicy]) -> TeamsPlan:
    """The plan of every team that is not being deleted; never raises for objects that the schema accepts. Equal objects, in any order, give equal plans."""
    living = sorted((t for t in teams if t.metadata.deletion_timestamp is None), key=lambda t: t.key)
    known_pools = {p.key: p for p in sorted(pools, key=lambda p: p.key)}
    known_policies = {p.key: p for p in sorted(policies, key=lambda p: p.key)}
    plans: dict[str, TeamPlan] = {}
    targets: dict[str, dict[str, RoleTarget]] = {}
    problems: list[Problem] = []
    for team in living:
        wanted = {role.name: _target(team, role) for role in sorted(team.spec.roles, key=lambda r: r.name)}
        targets[team.key] = {name: _behind(target, known_pools, known_policies) for name, target in wanted.items()}
        found = [*_refused(team), *_unresolved(team, wanted, known_pools, known_policies)]
        problems += found
        if not found:
            plans[team.key] = _plan(team, wanted)
    return TeamsPlan(
        teams=plans,
        names=_names(living, known_pools.values(), known_policies.values()),
        targets=targets,
        problems=tuple(sorted(problems, key=lambda p: (p.team, p.type, p.reason, p.message))),
        prices=_prices(known_pools.values()),
    )


def revision_of(plan: TeamPlan) -> str:
    """``r-`` and ten hex digits: a digest of everything a run is made of. The generation is left out, so a spec that returns has its revision back."""
    content = replace(plan, generation=0, revision="")
    return "r-" + hashlib.sha256(json.dumps(_as_json(asdict(content)), sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:10]


# --- faults ---


def _refused(team: AgentTeam) -> list[Problem]:
    if faults := schema_faults(team.spec):
        return [Problem(team.key, ConditionType.ACCEPTED, AgentTeamReason.INVALID_SCHEMA, _sentence(faults))]
    if faults := strategy_faults(team.spec):
        return [Problem(team.key, ConditionType.ACCEPTED, AgentTeamReason.INVALID_STRATEGY, _sentence(faults))]
    return []


def _unresolved(team: AgentTeam, wanted: Mapping[str, Target], pools: Mapping[str, ModelPool], policies: Mapping[str, RoutingPolicy]) -> list[Problem]:
    absent = [(role, target) for role, target in sorted(wanted.items()) if target.key not in (pools if target.kind == "pool" else policies)]
    problems = []
    for kind, what, reason in (("pool", "ModelPool", AgentTeamReason.POOL_NOT_FOUND), ("policy", "RoutingPolicy", AgentTeamReason.POLICY_NOT_FOUND)):
        lost = [f"no such {what}: {target.key} (roles[{role}].modelFrom)" for role, target in absent if target.kind == kind]
        if lost:
            problems.append(Problem(team.key, ConditionType.RESOLVED_REFS, reason, _sentence(lost)))
    return problems


def _sentence(faults: list[str]) -> str:
    more = len(faults) - _MAX_FAULTS
    return "; ".join(faults[:_MAX_FAULTS]) + (f"; and {more} more" if more > 0 else "")


# --- roles and what is behind them ---


def _target(team: AgentTeam, role: Role) -> Target:
    source, namespace = role.model_from, team.metadata.namespace
    if source.model_pool_ref is not None:
        return Target("pool", f"{namespace}/{source.model_pool_ref.name}")
    return Target("policy", f"{namespace}/{source.routing_policy_ref.name if source.routing_policy_ref else ''}")


def _behind(target: Target, pools: Mapping[str, ModelPool], policies: Mapping[str, RoutingPolicy]) -> RoleTarget:
    if target.kind == "pool":
        keys = [target.key]
    else:
        policy = policies.get(target.key)
        keys = sorted({f"{policy.metadata.namespace}/{c.pool_ref.name}" for c in policy.spec.candidates}) if policy is not None else []
    found = [pools[key] for key in keys if key in pools]
    return RoleTarget(
        flavors=tuple(sorted((pool.key, flavor.name) for pool in found for flavor in pool.spec.flavors)),
        candidates=len(found),
        usable=any(_answers(pool) for pool in found),
        hosted=frozenset((pool.key, flavor.name) for pool in found for flavor in pool.spec.flavors if flavor.endpoint is None),
    )


def _answers(pool: ModelPool) -> bool:
    """Whether the operator has seen something in the pool that answers; Ready does not tell it of a pool that wants no replicas."""
    endpoints = {flavor.name for flavor in pool.spec.flavors if flavor.endpoint is not None}
    serves = any(c.type == ConditionType.READY and c.status == "True" and c.reason == ModelPoolReason.SERVING for c in pool.status.conditions)
    return serves or any(f.ready > 0 or (f.name in endpoints and f.reachable is not False) for f in pool.status.flavors)


def _role(role: Role, target: Target) -> RolePlan:
    return RolePlan(
        name=role.name,
        target=target,
        instructions=role.instructions,
        max_tokens=role.sampling.max_tokens,
        timeout=parse_duration(role.timeout),
        max_concurrent=role.max_concurrent,
        temperature=role.sampling.temperature,
        top_p=role.sampling.top_p,
        max_retries=role.retries.max,
        backoff=parse_duration(role.retries.backoff),
        retry_on=frozenset(role.retries.retry_on),
        schema=None if role.output_schema is None else canonical(role.output_schema),
    )


# --- one team ---


def _plan(team: AgentTeam, wanted: Mapping[str, Target]) -> TeamPlan:
    spec = team.spec
    strategy: Chain | MapReduce | None = spec.strategy.chain or spec.strategy.map_reduce
    if strategy is None:
        raise Bug("NoStrategy", f"{team.key}: a team without a strategy was not refused")
    plan = TeamPlan(
        key=team.key,
        generation=team.metadata.generation,
        revision="",
        description=spec.description,
        suspended=spec.suspend,
        roles={role.name: _role(role, wanted[role.name]) for role in sorted(spec.roles, key=lambda r: r.name)},
        strategy=strategy,
        answering_role=answering_role(strategy),
        budget=_budget(spec.budget),
        max_runs=spec.limits.max_runs,
        queue=spec.limits.queue,
        journal_full=spec.journal.content == "Full",
        journal_ttl=parse_duration(spec.journal.ttl),
    )
    return replace(plan, revision=revision_of(plan))


def _budget(budget: Budget) -> BudgetPlan:
    per_run = budget.per_run
    return BudgetPlan(
        cost_micro_usd=None if per_run.cost is None else parse_money(per_run.cost),
        tokens=per_run.tokens,
        model_calls=per_run.model_calls,
        wall_clock=parse_duration(per_run.wall_clock),
        finalize=budget.on_exhausted == "Finalize",
    )


def _as_json(value: Any) -> Any:
    match value:
        case Chain() | MapReduce():
            return value.model_dump(by_alias=True, exclude_none=True, mode="json")
        case dict():
            return {key: _as_json(item) for key, item in value.items()}
        case frozenset():
            return sorted(value)
        case _:
            return value


# --- names and prices ---


def _names(teams: Iterable[AgentTeam], pools: Iterable[ModelPool], policies: Iterable[RoutingPolicy]) -> dict[str, str]:
    taken = {pool.spec.model.name for pool in pools} | {entrypoint.name for policy in policies for entrypoint in policy.spec.entrypoints}
    living = list(teams)
    bearers = Counter(team.metadata.name for team in living)
    names = {team.key: team.key for team in living}
    names |= {team.metadata.name: team.key for team in living if bearers[team.metadata.name] == 1 and team.metadata.name not in taken}
    return dict(sorted(names.items()))


def _prices(pools: Iterable[ModelPool]) -> PriceTable:
    prices: dict[tuple[str, str], TokenPrice] = {}
    for pool in pools:
        listed = [(f.name, f.endpoint.price.input_per_million, f.endpoint.price.output_per_million) for f in pool.spec.flavors if f.endpoint is not None]
        told = [(p.flavor, p.input_per_million, p.output_per_million) for p in pool.status.price]
        for flavor, given, made in (*told, *listed):
            try:
                prices[pool.key, flavor] = TokenPrice(parse_money(given), parse_money(made))
            except ValueError:
                continue
    return dict(sorted(prices.items()))
