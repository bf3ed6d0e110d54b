"""``modelfleet explain request``: which model would answer this request, and why; no request is sent on.

Asks a router's ``/explain`` (its live facts), or recomputes from the API server's objects with the same functions as the data path. Offline, no
Secret is read: endpoints count as having their keys, and which pods are ready comes from the EndpointSlices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import httpx

from modelfleet.api.parse import InvalidObject, parse
from modelfleet.api.v1alpha1 import ModelPool, RoutingPolicy
from modelfleet.core.render.labels import POOL
from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.ir import Address, RoutingPlan, RoutingWorld
from modelfleet.errors import NotFound, Stalled, Unavailable
from modelfleet.kube.client import Client
from modelfleet.kube.records import endpoints_of
from modelfleet.kube.resources import ENDPOINT_SLICES, MODEL_POOLS, ROUTING_POLICIES

from .authz import Decider

__all__ = ["explain_from_api", "explain_from_router", "explain_lines", "explain_with"]


def explain_from_router(url: str, body: bytes, headers: Mapping[str, str], policy: str | None = None) -> dict[str, Any]:
    """A running router's answer (``url`` is its HTTP side, port 8081). Raises Unavailable or Stalled."""
    try:
        answer = httpx.post(f"{url.rstrip('/')}/explain", content=body, headers=dict(headers), params={"policy": policy} if policy else None, timeout=10.0)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(0, "NoRouter", f"the router at {url} does not answer: {error}") from error
    if answer.status_code != 200:
        raise Stalled("NoExplanation", f"the router at {url} answered HTTP {answer.status_code}")
    return cast("dict[str, Any]", answer.json())


def explain_from_api(policy: str, body: bytes, headers: Mapping[str, str], kubeconfig: Path | str | None = None) -> dict[str, Any]:
    """The answer recomputed from the API server's objects; ``policy`` is ``<namespace>/<name>``. Raises Stalled, or an ApiError."""
    return asyncio.run(_from_api(policy, body, headers, kubeconfig))


def explain_with(plan: RoutingPlan, policy: str | None, body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    """The answer from a plan."""
    decider = Decider()
    decider.use(plan)
    return decider.explain(body, {name.lower(): value for name, value in headers.items()}, policy)


def explain_lines(answer: Mapping[str, Any]) -> list[str]:
    """An answer for people."""
    features = answer.get("features") or {}
    asks = [word for key, word in (("tools", "tools"), ("json_mode", "JSON"), ("vision", "images"), ("stream", "a stream")) if features.get(key)]
    size = f"request: about {features['input_tokens']} input tokens, {' and '.join(asks) or 'plain text'}" if features else "request: not readable"
    compiled = answer.get("compiled")
    return [size, *answer["explanation"], *([compiled["explanation"]] if compiled else [])]


async def _from_api(policy: str, body: bytes, headers: Mapping[str, str], kubeconfig: Path | str | None) -> dict[str, Any]:
    if not all(policy.partition("/")):
        raise Stalled("InvalidName", f"{policy!r} is not <namespace>/<name>")
    client = await Client.connect("explain", kubeconfig)
    try:
        world = await _world(client)
    finally:
        await client.close()
    if not any(p.key == policy for p in world.policies):
        raise NotFound(404, "NotFound", f"no readable RoutingPolicy {policy}")
    return explain_with(compile_routes(world), policy, body, headers)


async def _world(client: Client) -> RoutingWorld:
    pools, policies, slices = await asyncio.gather(client.list(MODEL_POOLS), client.list(ROUTING_POLICIES), client.list(ENDPOINT_SLICES, label_selector=POOL))
    addresses: dict[str, set[Address]] = {}
    for raw in slices[0]:
        endpoints = endpoints_of(raw)
        if endpoints is not None:
            addresses.setdefault(endpoints.pool, set()).update(endpoints.addresses)
    return RoutingWorld(
        pools=tuple(pool for raw in pools[0] if not isinstance(pool := parse(ModelPool, raw), InvalidObject)),
        policies=tuple(policy for raw in policies[0] if not isinstance(policy := parse(RoutingPolicy, raw), InvalidObject)),
        addresses={pool: tuple(sorted(found)) for pool, found in addresses.items()},
    )
