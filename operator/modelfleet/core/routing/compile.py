"""Policies, pools and the names of teams -> RoutingPlan: which groups a policy may use, in which order, and what is wrong with it.

Decided here, from the objects and the ready addresses alone: who owns a public model name (``<namespace>/<team>`` is that team's, whatever a policy says;
of policies the oldest; any other name is a team's only while no policy has it), which targets of teams are routes, and what does not resolve. One policy's
plan is made in ``policies.py``, what is behind a pool in ``pools.py``. Not decided here: which chain one request gets (``decide.py``) and how Envoy is told
(``xds/``).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from modelfleet.api.conditions import ConditionType, RoutingPolicyReason
from modelfleet.api.v1alpha1 import RoutingPolicy

from .ir import EntrypointPlan, PolicyPlan, Problem, RoutingPlan, RoutingWorld, SecretRef, TeamRoute
from .policies import NOTHING, digest, policy_plan, policy_target, pool_key, pool_target
from .pools import PoolBehind, pool_behind, prices_of

__all__ = ["NOTHING", "compile_routes", "problems_of"]

_FIRST = datetime.min.replace(tzinfo=UTC)


def compile_routes(world: RoutingWorld) -> RoutingPlan:
    """The plan of every policy of the world; never raises for objects that parse. Equal worlds give equal plans."""
    pools = {pool.key: pool_behind(pool, world) for pool in sorted(world.pools, key=lambda p: p.key)}
    owners = _owners(world)
    policies: list[PolicyPlan] = []
    for policy in sorted(world.policies, key=lambda p: p.key):
        entrypoints = tuple(EntrypointPlan(e.name, e.rule) for e in policy.spec.entrypoints if owners[e.name] == policy.key)
        if entrypoints and not _dangling(policy):
            policies.append(policy_plan(policy, entrypoints, pools))
    policies += _targets(world, pools)
    used = {cluster for plan in policies for _, cluster in plan.groups}
    named = {candidate.pool for plan in policies for candidate in plan.candidates}
    plan = RoutingPlan(
        version="",
        policies=tuple(policies),
        pod_clusters=tuple(p.pods for p in pools.values() if p.pods is not None and p.pods.name in used),
        remote_clusters=tuple(r for p in pools.values() for r in p.remotes if r.name in used),
        dropped=tuple(r for key, p in pools.items() if key in named for r in (*p.forbidden, *p.keyless)),
        problems=_problems(world, pools, {key: pool.missing for key, pool in pools.items()}),
        prices=prices_of(world.pools),
        teams=_teams(world.teams, owners),
        team_addresses=tuple(sorted(world.team_addresses)) if world.teams else (),
    )
    return replace(plan, version=digest([*([p.key, p.version] for p in plan.policies), *([t.key, t.version] for t in plan.teams)]))


def problems_of(world: RoutingWorld) -> tuple[Problem, ...]:
    """What is wrong with the policies where Secrets are not known: the ``problems`` of the plan, without the plan. Of the pools only their keys matter."""
    return _problems(world, {pool.key for pool in world.pools}, {})


def _problems(world: RoutingWorld, pools: Container[str], missing: Mapping[str, tuple[SecretRef, ...]]) -> tuple[Problem, ...]:
    owners = _owners(world)
    found = [p for policy in world.policies for p in (*_conflicts(policy, owners), *_unresolved(policy, pools, missing), *_dangling(policy))]
    return tuple(sorted(found, key=lambda p: (p.policy, p.type, p.reason, p.message)))


def _targets(world: RoutingWorld, pools: Mapping[str, PoolBehind]) -> list[PolicyPlan]:
    """A route for every pool and policy that some team's role calls; what does not exist gets none, and the team's status says so."""
    found = {pool.key: pool for pool in world.pools}
    policies = {policy.key: policy for policy in world.policies if not _dangling(policy)}
    plans = []
    for target in sorted({target for team in world.teams for target in team.targets}):
        kind, _, key = target.partition(":")
        if kind == "pool" and key in pools:
            plans.append(pool_target(target, found[key], pools[key]))
        elif kind == "policy" and key in policies:
            plans.append(policy_target(target, policies[key], pools))
    return plans


def _teams(teams: Iterable[TeamRoute], owners: Mapping[str, str]) -> tuple[TeamRoute, ...]:
    """A name that a policy has, or another team, is not a team's."""
    taken, kept = dict(owners), []
    for team in sorted(teams, key=lambda t: t.team):
        names = tuple(name for name in sorted(team.names) if taken.setdefault(name, team.key) == team.key)
        kept.append(replace(team, names=names))
    return tuple(kept)


# --- who owns a name ---


def _owners(world: RoutingWorld) -> dict[str, str]:
    """Name -> key in the plan. A full name says whose it is: no policy of another namespace may take it or keep it from its team."""
    owners = {team.team: team.key for team in world.teams if team.team in team.names}
    for policy in sorted(world.policies, key=lambda p: (p.metadata.creation_timestamp or _FIRST, p.key)):
        for entrypoint in policy.spec.entrypoints:
            owners.setdefault(entrypoint.name, policy.key)
    return owners


def _conflicts(policy: RoutingPolicy, owners: Mapping[str, str]) -> list[Problem]:
    lost = [f"{e.name} belongs to {_called(owners[e.name])}" for e in policy.spec.entrypoints if owners[e.name] != policy.key]
    if not lost:
        return []
    return [Problem(policy.key, ConditionType.ACCEPTED, RoutingPolicyReason.ENTRYPOINT_CONFLICT, "; ".join(sorted(lost)))]


def _called(owner: str) -> str:
    team = owner.removeprefix("team:")
    return f"the older policy {owner}" if team == owner else f"the AgentTeam {team}, whose full name it is: choose another name"


def _dangling(policy: RoutingPolicy) -> list[Problem]:
    """Names that the API server would not have let in today: such a policy is not programmed, and no other one suffers."""
    spec = policy.spec
    known = {candidate.name for candidate in spec.candidates}
    named = [("spec.default.chain", name) for name in spec.default.chain]
    for rule in spec.rules or ():
        named += [(f"spec.rules[{rule.name}]", name) for name in (*(rule.candidates or ()), *(w.candidate for w in rule.weights or ()))]
    lost = [f"{path} names {name}, which is not in spec.candidates" for path, name in named if name not in known]
    return [Problem(policy.key, ConditionType.ACCEPTED, RoutingPolicyReason.INVALID, "; ".join(dict.fromkeys(lost)))] if lost else []


def _unresolved(policy: RoutingPolicy, pools: Container[str], missing: Mapping[str, tuple[SecretRef, ...]]) -> list[Problem]:
    named = sorted({pool_key(policy, c) for c in policy.spec.candidates})
    absent = [key for key in named if key not in pools]
    secrets = sorted({ref for key in named for ref in missing.get(key, ())})
    problems = []
    if absent:
        message = "no such ModelPool: " + ", ".join(absent)
        problems.append(Problem(policy.key, ConditionType.RESOLVED_REFS, RoutingPolicyReason.POOL_NOT_FOUND, message))
    if secrets:
        message = "no such Secret or key: " + ", ".join(f"{s.namespace}/{s.name} key {s.key}" for s in secrets)
        problems.append(Problem(policy.key, ConditionType.RESOLVED_REFS, RoutingPolicyReason.SECRET_NOT_FOUND, message))
    return problems
