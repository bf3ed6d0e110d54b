"""``modelfleet explain request``: which model would answer this request, and why; no request is sent on.

Asks a router's ``/explain`` (its live facts), or recomputes from the API server's objects with the same functions as the data path. Offline, no
Secret is read: endpoints count as having their keys, no grant is checked, and which pods are ready comes from the EndpointSlices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import httpx

from modelfleet.api.conditions import DecisionReason
from modelfleet.api.parse import InvalidObject, parse
from modelfleet.api.v1alpha1 import AgentTeam, ModelPool, RoutingPolicy
from modelfleet.core.render.labels import POOL
from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.ir import Address, RoutingPlan, RoutingWorld
from modelfleet.errors import NotFound, Stalled, Unavailable
from modelfleet.kube.client import Client
from modelfleet.kube.records import endpoints_of
from modelfleet.kube.resources import AGENT_TEAMS, ENDPOINT_SLICES, MODEL_POOLS, ROUTING_POLICIES

from .authz import Decider
from .teams import TeamNames

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


def explain_from_api(policy: str, body: bytes, headers: Mapping[str, str], kubeconfig: Path | str | None = None, context: str | None = None) -> dict[str, Any]:
    """The answer recomputed from the API server's objects; ``policy`` is ``<namespace>/<name>``. Raises Stalled, or an ApiError."""
    return asyncio.run(_from_api(policy, body, headers, kubeconfig, context))


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


async def _from_api(policy: str, body: bytes, headers: Mapping[str, str], kubeconfig: Path | str | None, context: str | None) -> dict[str, Any]:
    if not all(policy.partition("/")):
        raise Stalled("InvalidName", f"{policy!r} is not <namespace>/<name>")
    client = await Client.connect("explain", kubeconfig, context=context)
    try:
        world = await _world(client)
    finally:
        await client.close()
    if not any(p.key == policy for p in world.policies):
        raise NotFound(404, "NotFound", f"no readable RoutingPolicy {policy}")
    plan = compile_routes(world)
    answer = explain_with(plan, policy, body, headers)
    return answer | _target_json(plan, answer["model"]) if _is_target(answer["model"]) else answer


def _is_target(model: str) -> bool:
    """No policy's entrypoint and no team's name holds a colon."""
    return model.startswith(("pool:", "policy:"))


def _target_json(plan: RoutingPlan, model: str) -> dict[str, Any]:
    """The target of a team's role, told without the keys that a grant is checked with."""
    found = next((p for p in plan.policies if p.granted and p.key == model), None)
    if found is None:
        said = [f"model {model}: no role of any AgentTeam calls it, so the gateway has no such route", "answer: HTTP 404, model_not_found"]
        return {"policy": "", "generation": 0, "trail": [], "explanation": said}
    said = [
        f"model {model}: where roles of AgentTeams call, generation {found.generation}; each call needs a grant of the team runtime for this very name",
        "answer: HTTP 403 without a grant; ask a router (--router URL) what one is worth, since its keys are not read here",
    ]
    return {"policy": found.key, "generation": found.generation, "why": str(DecisionReason.GRANT_INVALID), "trail": [], "explanation": said}


async def _world(client: Client) -> RoutingWorld:
    pools, policies, slices, teams = await asyncio.gather(
        client.list(MODEL_POOLS), client.list(ROUTING_POLICIES), client.list(ENDPOINT_SLICES, label_selector=POOL), _teams(client)
    )
    addresses: dict[str, set[Address]] = {}
    for raw in slices[0]:
        endpoints = endpoints_of(raw)
        if endpoints is not None:
            addresses.setdefault(endpoints.pool, set()).update(endpoints.addresses)
    read_pools = tuple(pool for raw in pools[0] if not isinstance(pool := parse(ModelPool, raw), InvalidObject))
    read_policies = tuple(policy for raw in policies[0] if not isinstance(policy := parse(RoutingPolicy, raw), InvalidObject))
    return RoutingWorld(
        pools=read_pools,
        policies=read_policies,
        addresses={pool: tuple(sorted(found)) for pool, found in addresses.items()},
        teams=TeamNames().routes(teams, read_pools, read_policies),
    )


async def _teams(client: Client) -> tuple[AgentTeam, ...]:
    """An API server whose CustomResourceDefinitions are older knows none."""
    try:
        listed = (await client.list(AGENT_TEAMS))[0]
    except NotFound:
        return ()
    return tuple(team for raw in listed if not isinstance(team := parse(AgentTeam, raw), InvalidObject))
