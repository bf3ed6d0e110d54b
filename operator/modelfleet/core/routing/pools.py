"""One pool as every policy and every team sees it: the groups behind it in the order they are tried now, its clusters, its prices.

Decided here: pods first while one is ready; weights of flavors; limits; which endpoints are left out (their Secret is missing, or they point where
they may not). Not decided here: who may use the pool (``compile.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from urllib.parse import urlsplit

from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.api.v1alpha1.common import parse_money
from modelfleet.api.v1alpha1.modelpool import Endpoint, Flavor

from .ir import Address, PodCluster, Price, RemoteCluster, RoutingWorld, SecretRef

__all__ = ["PoolBehind", "pool_behind", "prices_of"]

_MAX_WEIGHT = 128
_UNDECLARED_REQUESTS = 4096


@dataclass(frozen=True, slots=True)
class PoolBehind:
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


def pool_behind(pool: ModelPool, world: RoutingWorld) -> PoolBehind:
    """What is behind a pool now."""
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
    return PoolBehind(pool.key, tuple(first + behind if ready else behind + first), cluster, remotes, tuple(sorted(missing)), forbidden, keyless)


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
        flavors=tuple(sorted(f.name for f in flavors)),
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


def prices_of(pools: Iterable[ModelPool]) -> dict[tuple[str, str], Price]:
    """(pool key, flavor) -> price: the status of each pool; of an endpoint its price list, which status follows."""
    prices: dict[tuple[str, str], Price] = {}
    for pool in sorted(pools, key=lambda p: p.key):
        listed = [(f.name, f.endpoint.price.input_per_million, f.endpoint.price.output_per_million) for f in pool.spec.flavors if f.endpoint is not None]
        told = [(p.flavor, p.input_per_million, p.output_per_million) for p in pool.status.price]
        for flavor, given, made in (*told, *listed):
            try:
                prices[pool.key, flavor] = Price(parse_money(given), parse_money(made))
            except (ArithmeticError, ValueError):
                continue
    return prices
