"""Policies and pools -> RoutingPlan: which groups a policy may use, in which order, and what is wrong with it.

Decided here, from the objects and the ready addresses alone: who owns a public model name, which candidates can serve, the
chain that is walked when nobody decides (``static_chain``), weights, limits and prices. Not decided here: which chain one
request gets (``decide.py``) and how Envoy is told (``xds/``). A policy's ``version`` is a digest of what was written, not of
what is running: pods that come and go never move it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from modelfleet.api.conditions import ConditionType, RoutingPolicyReason
from modelfleet.api.v1alpha1 import ModelPool, RoutingPolicy
from modelfleet.api.v1alpha1.common import parse_duration, parse_money
from modelfleet.api.v1alpha1.modelpool import Endpoint, Flavor
from modelfleet.api.v1alpha1.routingpolicy import Candidate

from .ir import Address, CandidatePlan, EntrypointPlan, PodCluster, PolicyPlan, Price, Problem, RemoteCluster, RoutingPlan, RoutingWorld, SecretRef

__all__ = ["NOTHING", "compile_routes"]

NOTHING = ("_none", "_none")
"""Group and cluster of a policy whose default chain cannot serve: the sink alone, an ordinary 503."""

_MAX_WEIGHT = 128
_UNDECLARED_REQUESTS = 4096
_FIRST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Pool:
    """One pool as every policy sees it. ``groups``: (group, cluster) as tried now; ``missing``: Secrets that are not at hand.

    ``forbidden``: endpoints that point where they may not; ``keyless``: those whose Secret is missing.
    """

    key: str
    groups: tuple[tuple[str, str], ...]
    pods: PodCluster | None
    remotes: tuple[RemoteCluster, ...]
    missing: tuple[SecretRef, ...]
    forbidden: tuple[RemoteCluster, ...]
    keyless: tuple[RemoteCluster, ...]


def compile_routes(world: RoutingWorld) -> RoutingPlan:
    """The plan of every policy of the world; never raises for objects that the schema accepts. Equal worlds give equal plans."""
    pools = {pool.key: _pool(pool, world) for pool in sorted(world.pools, key=lambda p: p.key)}
    owners = _owners(world.policies)
    problems: list[Problem] = []
    policies: list[PolicyPlan] = []
    for policy in sorted(world.policies, key=lambda p: p.key):
        problems += _conflicts(policy, owners)
        problems += _unresolved(policy, pools)
        entrypoints = tuple(EntrypointPlan(e.name, e.rule) for e in policy.spec.entrypoints if owners[e.name] == policy.key)
        if entrypoints:
            policies.append(_policy(policy, entrypoints, pools))
    used = {cluster for plan in policies for _, cluster in plan.groups}
    named = {candidate.pool for plan in policies for candidate in plan.candidates}
    plan = RoutingPlan(
        version="",
        policies=tuple(policies),
        pod_clusters=tuple(p.pods for p in pools.values() if p.pods is not None and p.pods.name in used),
        remote_clusters=tuple(r for p in pools.values() for r in p.remotes if r.name in used),
        dropped=tuple(r for key, p in pools.items() if key in named for r in (*p.forbidden, *p.keyless)),
        problems=tuple(sorted(problems, key=lambda p: (p.policy, p.type, p.reason, p.message))),
        prices=_prices(world.pools),
    )
    return replace(plan, version=_digest([[p.key, p.version] for p in plan.policies]))


# --- who owns a name ---


def _owners(policies: Iterable[RoutingPolicy]) -> dict[str, str]:
    owners: dict[str, str] = {}
    for policy in sorted(policies, key=lambda p: (p.metadata.creation_timestamp or _FIRST, p.key)):
        for entrypoint in policy.spec.entrypoints:
            owners.setdefault(entrypoint.name, policy.key)
    return owners


def _conflicts(policy: RoutingPolicy, owners: Mapping[str, str]) -> list[Problem]:
    lost = [f"{e.name} belongs to the older policy {owners[e.name]}" for e in policy.spec.entrypoints if owners[e.name] != policy.key]
    if not lost:
        return []
    return [Problem(policy.key, ConditionType.ACCEPTED, RoutingPolicyReason.ENTRYPOINT_CONFLICT, "; ".join(sorted(lost)))]


def _unresolved(policy: RoutingPolicy, pools: Mapping[str, _Pool]) -> list[Problem]:
    named = sorted({_pool_key(policy, c) for c in policy.spec.candidates})
    absent = [key for key in named if key not in pools]
    secrets = sorted({ref for key in named if key in pools for ref in pools[key].missing})
    problems = []
    if absent:
        message = "no such ModelPool: " + ", ".join(absent)
        problems.append(Problem(policy.key, ConditionType.RESOLVED_REFS, RoutingPolicyReason.POOL_NOT_FOUND, message))
    if secrets:
        message = "no such Secret or key: " + ", ".join(f"{s.namespace}/{s.name} key {s.key}" for s in secrets)
        problems.append(Problem(policy.key, ConditionType.RESOLVED_REFS, RoutingPolicyReason.SECRET_NOT_FOUND, message))
    return problems


def _pool_key(policy: RoutingPolicy, candidate: Candidate) -> str:
    return f"{policy.metadata.namespace}/{candidate.pool_ref.name}"


# --- one policy ---


def _policy(policy: RoutingPolicy, entrypoints: tuple[EntrypointPlan, ...], pools: Mapping[str, _Pool]) -> PolicyPlan:
    spec = policy.spec
    candidates = tuple(_candidate(policy, c, pools) for c in spec.candidates)
    clusters = {g: c for key in {c.pool for c in candidates} if key in pools for g, c in pools[key].groups}
    by_name = {c.name: c for c in candidates}
    walked = _unique(g for name in spec.default.chain for g in by_name[name].groups)
    static = _padded(walked or [NOTHING[0]], spec.fallback.max_attempts)
    named = dict(zip(static, [(clusters | dict([NOTHING]))[g.partition("#")[0]] for g in static], strict=True))
    others = _unique(g for c in candidates for g in c.groups)
    return PolicyPlan(
        key=policy.key,
        generation=policy.metadata.generation,
        version=_policy_version(policy, entrypoints, candidates, pools),
        entrypoints=entrypoints,
        candidates=candidates,
        default_chain=tuple(spec.default.chain),
        rules=tuple(spec.rules or ()),
        static_chain=tuple(static),
        groups=(*named.items(), *((g, clusters[g]) for g in others if g not in named)),
        refuse_when_decider_lost=spec.default.on_decider_loss == "Refuse",
        triggers=tuple(dict.fromkeys(spec.fallback.retry_on)),
        max_attempts=spec.fallback.max_attempts,
        first_byte_timeout=parse_duration(spec.fallback.first_byte_timeout),
        total_timeout=parse_duration(spec.fallback.total_timeout),
    )


def _candidate(policy: RoutingPolicy, candidate: Candidate, pools: Mapping[str, _Pool]) -> CandidatePlan:
    key = _pool_key(policy, candidate)
    pool = pools.get(key)
    groups = () if pool is None else tuple(group for group, _ in pool.groups)
    if pool is None:
        unusable = f"pool {key} does not exist"
    elif not groups:
        why = [f"{r.flavor} points where the platform does not let endpoints point (chart value endpoints.allow)" for r in pool.forbidden]
        why += [f"the Secret of {r.flavor} is missing" for r in pool.keyless]
        unusable = f"pool {key} has no flavor that can be reached: {', '.join(why)}"
    else:
        unusable = ""
    return CandidatePlan(candidate.name, key, groups, candidate.capabilities, unusable)


def _padded(groups: Sequence[str], attempts: int) -> list[str]:
    """Cut or padded to ``attempts``: past its end Envoy 1.40 repeats the last group and later versions wrap, so the end is never reached."""
    chain = list(groups[:attempts])
    return chain + [f"{chain[-1]}#{n}" for n in range(2, attempts - len(chain) + 2)]


def _policy_version(
    policy: RoutingPolicy,
    entrypoints: tuple[EntrypointPlan, ...],
    candidates: tuple[CandidatePlan, ...],
    pools: Mapping[str, _Pool],
) -> str:
    found = [pools[key] for key in sorted({c.pool for c in candidates}) if key in pools]
    clusters = [asdict(replace(p.pods, addresses=(), concurrency=0)) for p in found if p.pods is not None]
    remotes = [asdict(r) for p in found for r in p.remotes]
    return _digest([policy.spec.model_dump(by_alias=True, mode="json"), [asdict(e) for e in entrypoints], clusters, remotes])


# --- one pool ---


def _pool(pool: ModelPool, world: RoutingWorld) -> _Pool:
    name, pods = pool.metadata.name, [f for f in pool.spec.flavors if f.endpoint is None]
    cluster = _pod_cluster(pool, pods, world.addresses.get(pool.key, ())) if pods else None
    asked = [_remote(pool, f, f.endpoint) for f in pool.spec.flavors if f.endpoint is not None]
    forbidden = tuple(r for r in asked if _is_forbidden(r, world))
    missing = {r.secret for r in asked if r.secret is not None and world.secrets is not None and r.secret not in world.secrets and r not in forbidden}
    keyless = tuple(r for r in asked if r.secret in missing and r not in forbidden)
    remotes = tuple(r for r in asked if r not in (*forbidden, *keyless))
    first = [(name, cluster.name)] if cluster is not None else []
    behind = [(f"{name}/{r.flavor}", r.name) for r in remotes]
    ready = cluster is not None and bool(cluster.addresses)
    return _Pool(pool.key, tuple(first + behind if ready else behind + first), cluster, remotes, tuple(sorted(missing)), forbidden, keyless)


def _is_forbidden(remote: RemoteCluster, world: RoutingWorld) -> bool:
    return world.egress is not None and (not world.egress.permits(remote.host) or (remote.pool, remote.flavor) in world.barred)


def _pod_cluster(pool: ModelPool, flavors: Sequence[Flavor], addresses: Sequence[Address]) -> PodCluster:
    weights, parallel = _weights(flavors), {f.name: f.capacity.concurrency if f.capacity else None for f in flavors}
    weighted = tuple(sorted(replace(a, weight=weights.get(a.flavor, 1)) for a in addresses if _is_address(a.host)))
    declared = [parallel.get(a.flavor) for a in weighted]
    widest = max((c or 0 for c in parallel.values()), default=0)
    return PodCluster(
        name=f"pods/{pool.key}",
        pool=pool.key,
        upstream_model=pool.spec.model.name,
        addresses=weighted,
        concurrency=sum(c or 0 for c in declared) if all(declared) else 0,
        max_requests=_power_of_two(4 * widest * max(1, pool.spec.replicas)) if all(parallel.values()) else _UNDECLARED_REQUESTS,
    )


def _is_address(host: str) -> bool:
    """A name among addresses would make Envoy refuse every endpoint that is pushed with it."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _weights(flavors: Sequence[Flavor]) -> dict[str, int]:
    """Shares of new requests by declared tokens per second, the fastest at 128; an undeclared flavor counts as the slowest declared one."""
    declared = {f.name: f.capacity.tokens_per_second for f in flavors if f.capacity and f.capacity.tokens_per_second}
    if not declared:
        return {f.name: 1 for f in flavors}
    fastest, slowest = max(declared.values()), min(declared.values())
    return {f.name: max(1, round(_MAX_WEIGHT * declared.get(f.name, slowest) / fastest)) for f in flavors}


def _power_of_two(requests: int) -> int:
    """Rounded up, 64 to 1,048,576: a cluster is replaced in Envoy when its limits change, so they move seldom."""
    return min(max(64, 1 << (requests - 1).bit_length()), 1 << 20)


def _remote(pool: ModelPool, flavor: Flavor, endpoint: Endpoint) -> RemoteCluster:
    host, _, port = urlsplit(endpoint.url).netloc.partition(":")
    tls, ref = endpoint.url.startswith("https://"), endpoint.auth_secret_ref
    return RemoteCluster(
        name=f"remote/{pool.key}/{flavor.name}",
        pool=pool.key,
        flavor=flavor.name,
        host=host,
        port=int(port) if port else (443 if tls else 80),
        tls=tls,
        path_prefix=urlsplit(endpoint.url).path.rstrip("/") or "/v1",
        upstream_model=endpoint.model,
        concurrency=endpoint.concurrency,
        secret=None if ref is None else SecretRef(pool.metadata.namespace, ref.name, ref.key),
    )


def _prices(pools: Iterable[ModelPool]) -> dict[tuple[str, str], Price]:
    prices: dict[tuple[str, str], Price] = {}
    for pool in sorted(pools, key=lambda p: p.key):
        listed = [(f.name, f.endpoint.price.input_per_million, f.endpoint.price.output_per_million) for f in pool.spec.flavors if f.endpoint is not None]
        told = [(p.flavor, p.input_per_million, p.output_per_million) for p in pool.status.price]
        for flavor, given, made in (*listed, *told):
            try:
                prices[pool.key, flavor] = Price(parse_money(given), parse_money(made))
            except (ArithmeticError, ValueError):
                continue
    return prices


# --- small words ---


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
