"""One policy, or one target of a team's role, ready to be programmed and to decide from.

Decided here: which candidates can serve, the chain that is walked when nobody decides (``static_chain``), the groups the decider may name, limits, and a
``version``: a digest of what was written, not of what is running, so that pods that come and go never move it.
A target is a policy under a name of its own that only grants open: ``pool:<ns>/<name>`` has that one pool as its candidate, ``policy:<ns>/<name>`` the rules
and the chain of the policy. It refuses while the decider is lost, since Envoy cannot check a grant, and repeats only what cannot have been billed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from modelfleet.api.v1alpha1 import ModelPool, RoutingPolicy
from modelfleet.api.v1alpha1.common import parse_duration
from modelfleet.api.v1alpha1.routingpolicy import Candidate, Capabilities, Fallback, FallbackTrigger

from .compiled import entrypoint_routes, padded
from .ir import CandidatePlan, EntrypointPlan, PolicyPlan
from .pools import PoolBehind

__all__ = ["NOTHING", "digest", "policy_plan", "policy_target", "pool_key", "pool_target"]

NOTHING: Final = ("_none", "_none")
"""Group and cluster of a policy whose default chain cannot serve: the sink alone, an ordinary 503."""

_UNBILLED: Final[tuple[FallbackTrigger, ...]] = ("Connect", "Status429", "Status503")
_LONGEST_CALL: Final = 4 * 3600.0
"""Seconds. No role may wait longer, and the team runtime ends each call at the role's own limit."""

Pools = Mapping[str, PoolBehind]


def policy_plan(policy: RoutingPolicy, entrypoints: tuple[EntrypointPlan, ...], pools: Pools) -> PolicyPlan:
    """The plan of one policy under these public names."""
    spec = policy.spec
    candidates = tuple(_candidate(policy, c, pools) for c in spec.candidates)
    static, groups = _groups(candidates, spec.default.chain, spec.fallback.max_attempts, pools)
    plan = PolicyPlan(
        key=policy.key,
        generation=policy.metadata.generation,
        version=_version([policy.spec.model_dump(by_alias=True, mode="json"), [[e.name, e.rule] for e in entrypoints]], candidates, pools),
        entrypoints=entrypoints,
        candidates=candidates,
        default_chain=tuple(spec.default.chain),
        rules=tuple(spec.rules or ()),
        static_chain=static,
        groups=groups,
        refuse_when_decider_lost=spec.default.on_decider_loss == "Refuse",
        triggers=tuple(dict.fromkeys(spec.fallback.retry_on)),
        max_attempts=spec.fallback.max_attempts,
        first_byte_timeout=parse_duration(spec.fallback.first_byte_timeout),
        total_timeout=parse_duration(spec.fallback.total_timeout),
    )
    return replace(plan, entrypoints=tuple(replace(e, routes=entrypoint_routes(plan, e)) for e in entrypoints))


def policy_target(name: str, policy: RoutingPolicy, pools: Pools) -> PolicyPlan:
    """A policy as the target ``policy:<ns>/<name>``. No entrypoint, so no rule is pinned."""
    plan = policy_plan(policy, (), pools)
    triggers: tuple[FallbackTrigger, ...] = tuple(t for t in plan.triggers if t in _UNBILLED)
    return replace(plan, key=name, entrypoints=(EntrypointPlan(name),), triggers=triggers, refuse_when_decider_lost=True, granted=True)


def pool_target(name: str, pool: ModelPool, behind: PoolBehind) -> PolicyPlan:
    """A pool as the target ``pool:<ns>/<name>``."""
    fallback, pools = Fallback(), {pool.key: behind}
    candidates = (_usable(pool.metadata.name, pool.key, behind, Capabilities()),)
    chain = (candidates[0].name,)
    static, groups = _groups(candidates, chain, fallback.max_attempts, pools)
    return PolicyPlan(
        key=name,
        generation=pool.metadata.generation,
        version=_version([name], candidates, pools),
        entrypoints=(EntrypointPlan(name),),
        candidates=candidates,
        default_chain=chain,
        rules=(),
        static_chain=static,
        groups=groups,
        refuse_when_decider_lost=True,
        triggers=_UNBILLED,
        max_attempts=fallback.max_attempts,
        first_byte_timeout=parse_duration(fallback.first_byte_timeout),
        total_timeout=_LONGEST_CALL,
        granted=True,
    )


def pool_key(policy: RoutingPolicy, candidate: Candidate) -> str:
    """The pool of a candidate."""
    return f"{policy.metadata.namespace}/{candidate.pool_ref.name}"


def digest(value: Any) -> str:
    """Twelve hexadecimal digits that differ where the value does."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _groups(candidates: tuple[CandidatePlan, ...], chain: Iterable[str], attempts: int, pools: Pools) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The static chain under unique names, and every group with its cluster, the chain's first."""
    clusters = {g: c for key in {c.pool for c in candidates} if key in pools for g, c in pools[key].groups}
    by_name = {c.name: c for c in candidates}
    walked = list(dict.fromkeys(g for name in chain for g in by_name[name].groups))
    static = padded(walked or [NOTHING[0]], attempts)
    known = clusters | dict([NOTHING])
    named = {group: known[group.partition("#")[0]] for group in static}
    others = dict.fromkeys(g for c in candidates for g in c.groups)
    return static, (*named.items(), *((g, clusters[g]) for g in others if g not in named))


def _candidate(policy: RoutingPolicy, candidate: Candidate, pools: Pools) -> CandidatePlan:
    key = pool_key(policy, candidate)
    return _usable(candidate.name, key, pools.get(key), candidate.capabilities)


def _usable(name: str, key: str, pool: PoolBehind | None, capabilities: Capabilities) -> CandidatePlan:
    if pool is None:
        return CandidatePlan(name, key, (), capabilities, f"pool {key} does not exist")
    groups = tuple(group for group, _ in pool.groups)
    if groups:
        return CandidatePlan(name, key, groups, capabilities)
    why = [f"{r.flavor} points where the platform does not let endpoints point (chart value endpoints.allow)" for r in pool.forbidden]
    why += [f"the Secret of {r.flavor} is missing" for r in pool.keyless]
    return CandidatePlan(name, key, (), capabilities, f"pool {key} has no flavor that can be reached: {', '.join(why)}")


def _version(written: list[Any], candidates: tuple[CandidatePlan, ...], pools: Pools) -> str:
    found = [pools[key] for key in sorted({c.pool for c in candidates}) if key in pools]
    clusters = [asdict(replace(p.pods, addresses=(), concurrency=0, flavors=())) for p in found if p.pods is not None]
    remotes = [asdict(r) for p in found for r in p.remotes]
    return digest([*written, clusters, remotes])
