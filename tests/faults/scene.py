"""A small fleet that changes by a seed, and what is left of it.

Manifests are applied past the operator; all objects are read back without that in which two runs may differ (uids, versions, times).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self
from uuid import uuid4

from tests.operator.running import GPU

from modelfleet.core.render.labels import ACCELERATOR_CLASS, MANAGED_BY, MANAGED_BY_VALUE, PAUSED
from modelfleet.errors import NotFound
from modelfleet.kube.client import Client
from modelfleet.kube.resources import (
    ACCELERATOR_CLASSES,
    AGENT_TEAMS,
    DEPLOYMENTS,
    EVENTS,
    LEASES,
    MODEL_POOLS,
    NAMESPACES,
    NODES,
    OURS,
    PODS,
    ROUTING_POLICIES,
    SERVICES,
    Resource,
)

CARDS = ("fast", "slow")
REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet")
USER = "a-user"
_PRICES = ("1.50", "2.25", "4.00")
_STEP = 3
"""Changes at once, at most."""

Objects = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pool:
    """What a person says about a pool. ``life`` differs when it was deleted and made anew."""

    flavors: tuple[str, ...]
    replicas: int
    paused: bool = False
    life: int = 0


@dataclass(frozen=True, slots=True)
class Wish:
    """All manifests of one moment."""

    pools: dict[str, Pool] = field(default_factory=dict)
    policies: frozenset[str] = frozenset()
    teams: frozenset[str] = frozenset()
    prices: dict[str, str] = field(default_factory=lambda: dict.fromkeys(CARDS, _PRICES[0]))
    nodes: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(CARDS, True))


def a_story(seed: int, steps: int) -> list[Wish]:
    """What the person wants, moment after moment: pools come, change, pause and go, flavors come and go, a class loses its nodes, policies and teams follow."""
    rng = random.Random(seed)
    wish = Wish(pools={"a": Pool(("fast", "slow"), 2), "b": Pool(("slow",), 1)}, policies=frozenset({"a"}))
    story = [wish]
    while len(story) < steps:
        was = wish
        for _ in range(rng.randint(1, _STEP)):
            wish = rng.choice(_CHANGES)(wish, rng)
        if wish != was:
            story.append(wish)
    return story


def _some_pool(wish: Wish, rng: random.Random, change: Callable[[Pool], Pool]) -> Wish:
    if not wish.pools:
        return wish
    name = rng.choice(sorted(wish.pools))
    return replace(wish, pools={**wish.pools, name: change(wish.pools[name])})


def _come(wish: Wish, rng: random.Random) -> Wish:
    name = rng.choice("abcd")
    return wish if name in wish.pools else replace(wish, pools={**wish.pools, name: Pool(_flavors(rng), rng.randint(0, 3))})


def _go(wish: Wish, rng: random.Random) -> Wish:
    gone = rng.choice("abcd")
    return replace(wish, pools={name: pool for name, pool in wish.pools.items() if name != gone})


def _flavors(rng: random.Random) -> tuple[str, ...]:
    return tuple(rng.sample(CARDS, rng.randint(1, len(CARDS))))


def _toggled(names: frozenset[str], name: str) -> frozenset[str]:
    return names ^ {name}


_CHANGES: tuple[Callable[[Wish, random.Random], Wish], ...] = (
    _come,
    _go,
    lambda w, r: _some_pool(w, r, lambda p: replace(p, replicas=r.randint(0, 3))),
    lambda w, r: _some_pool(w, r, lambda p: replace(p, flavors=_flavors(r))),
    lambda w, r: _some_pool(w, r, lambda p: replace(p, paused=not p.paused)),
    lambda w, r: _some_pool(w, r, lambda p: replace(p, life=p.life + 1)),
    lambda w, r: replace(w, policies=_toggled(w.policies, r.choice("ab"))),
    lambda w, r: replace(w, teams=_toggled(w.teams, r.choice("ab"))),
    lambda w, r: replace(w, prices={**w.prices, r.choice(CARDS): r.choice(_PRICES)}),
    lambda w, r: replace(w, nodes={**w.nodes, (card := r.choice(CARDS)): not w.nodes[card]}),
)


class Scene:
    """One namespace of one API server, and the cluster's nodes and classes."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.client, self.namespace = client, namespace
        self._is = Wish(prices={}, nodes=dict.fromkeys(CARDS, False))

    @classmethod
    async def empty(cls, client: Client) -> Self:
        """A namespace of its own; nothing of an earlier scene is left in the cluster."""
        made = cls(client, f"faults-{uuid4().hex[:8]}")
        await client.create(NAMESPACES, None, {"metadata": {"name": made.namespace}})
        await made.clear()
        return made

    async def clear(self) -> None:
        """Delete all that operators look at, and wait until the garbage collector has followed."""
        while found := [(r, i) async for r, i in self._all((*OURS, DEPLOYMENTS, SERVICES, REPLICA_SETS, PODS, NODES, LEASES))]:
            for resource, item in found:
                await self._delete(resource, item["metadata"].get("namespace"), item["metadata"]["name"])
            await asyncio.sleep(0.2)

    async def _all(self, resources: tuple[Resource, ...]) -> Any:
        for resource in resources:
            for item in (await self.client.list(resource))[0]:
                if item["metadata"]["name"] != "kubernetes" and item["metadata"].get("namespace") != "kube-system":
                    yield resource, item

    async def _delete(self, resource: Resource, namespace: str | None, name: str) -> None:
        with contextlib.suppress(NotFound):
            await self.client.delete(resource, namespace, name)

    # -- what a person does

    async def want(self, wish: Wish) -> None:
        """Apply what differs from the wish before, in the order in which a person would."""
        was, self._is = self._is, wish
        for card, price in wish.prices.items():
            if was.prices.get(card) != price:
                await self._a_class(card, price)
        for card, there in wish.nodes.items():
            if there and not was.nodes[card]:
                await self._a_node(card)
            elif was.nodes[card] and not there:
                await self._delete(NODES, None, f"node-{card}")
        for name, pool in was.pools.items():
            if name not in wish.pools or wish.pools[name].life != pool.life:
                await self._delete(MODEL_POOLS, self.namespace, name)
        for name, pool in wish.pools.items():
            if was.pools.get(name) != pool:
                await self.client.apply(MODEL_POOLS, self.namespace, name, self._pool(name, pool), USER)
        for resource, before, after in ((ROUTING_POLICIES, was.policies, wish.policies), (AGENT_TEAMS, was.teams, wish.teams)):
            for name in sorted(before - after):
                await self._delete(resource, self.namespace, name)
            for name in sorted(after - before):
                spec = _policy(name) if resource is ROUTING_POLICIES else _team(name)
                await self.client.apply(resource, self.namespace, name, {"spec": spec}, USER)

    async def _a_class(self, card: str, price: str) -> None:
        nodes = [{"resource": GPU, "matchLabels": {"example.com/card": card}}]
        spec = {"vendor": "Any", "device": "Card", "nodes": nodes, "price": {"perDeviceHour": price}}
        await self.client.apply(ACCELERATOR_CLASSES, None, card, {"spec": spec}, USER)

    async def _a_node(self, card: str) -> None:
        amounts = {"cpu": "64", "memory": "256Gi", "pods": "110", GPU: "8"}
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ok"}]}
        meta = {"name": f"node-{card}", "labels": {"example.com/card": card}}
        await self.client.create(NODES, None, {"apiVersion": "v1", "kind": "Node", "metadata": meta, "status": status})
        await self.client.merge_patch(NODES, None, meta["name"], {"spec": {"taints": None}})  # admission adds not-ready; no controller takes it away

    def _pool(self, name: str, pool: Pool) -> Objects:
        spec = {
            "model": {"name": name, "source": "hf://org/model"},
            "engine": {"type": "LlamaCpp", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}},
            "flavors": [{"name": flavor, "acceleratorClass": flavor, "devices": 1} for flavor in pool.flavors],
            "replicas": pool.replicas, "scaling": {"mode": "Manual", "min": 0, "max": 8},
            "placement": {"pendingTimeout": "1h"},  # nothing is decided by time alone: two runs take unlike times
        }  # fmt: skip
        return {"metadata": {"annotations": {PAUSED: "true"} if pool.paused else {}}, "spec": spec}

    async def no_lease(self) -> None:
        """As if the Lease had expired."""
        for lease in (await self.client.list(LEASES, self.namespace))[0]:
            await self._delete(LEASES, self.namespace, lease["metadata"]["name"])

    # -- what is there

    async def objects(self) -> Objects:
        """All objects of ours, by kind and name, without uids, versions and times; owners by name, each proven to exist."""
        found: Objects = {}
        owners = {}
        for resource in (*OURS, NODES, DEPLOYMENTS, SERVICES):
            items, _ = await self.client.list(resource, self.namespace if resource.namespaced else None)
            for item in items:
                meta = item["metadata"]
                if resource in (DEPLOYMENTS, SERVICES) and meta["labels"].get(MANAGED_BY) != MANAGED_BY_VALUE:
                    continue
                owners[meta["uid"]] = f"{resource.kind}/{meta['name']}"
                found[owners[meta["uid"]]] = _essence(resource, item, owners)
        told = json.dumps(found, sort_keys=True).replace(self.namespace, "NAMESPACE")
        return json.loads(re.sub(r"\b(since|at) \d\d:\d\d\b", r"\1 HH:MM", told))

    async def at_rest(self) -> str:
        """Empty when the cluster's own controllers have nothing left to do, and every status speaks of the present generation; else what is not so."""
        for resource in (*OURS, DEPLOYMENTS, REPLICA_SETS, SERVICES, PODS):
            for item in (await self.client.list(resource, self.namespace if resource.namespaced else None))[0]:
                meta, status = item["metadata"], item.get("status") or {}
                if meta.get("deletionTimestamp"):
                    return f"{resource.kind} {meta['name']} is being deleted"
                if resource in (SERVICES, PODS):
                    continue
                if status.get("observedGeneration") != meta["generation"]:
                    return f"{resource.kind} {meta['name']}: observed generation {status.get('observedGeneration')} of {meta['generation']}"
                if resource in (DEPLOYMENTS, REPLICA_SETS) and status.get("replicas", 0) != item["spec"]["replicas"]:
                    return f"{resource.kind} {meta['name']} has {status.get('replicas', 0)} of {item['spec']['replicas']} pods"
        return ""

    async def events_told_twice(self) -> list[tuple[str, str, str]]:
        """Events of ours that two objects tell with the same words."""
        said = [(e["involvedObject"].get("uid"), e["reason"], e["message"]) for e in (await self.client.list(EVENTS, self.namespace))[0] if _is_ours(e)]
        return sorted({s for s in said if said.count(s) > 1})


def _is_ours(event: Objects) -> bool:
    return str(event["involvedObject"].get("apiVersion", "")).startswith("modelfleet.dev/")


def _policy(pool: str) -> Objects:
    return {"entrypoints": [{"name": f"auto-{pool}"}], "candidates": [{"name": "it", "poolRef": {"name": pool}}], "default": {"chain": ["it"]}}


def _team(pool: str) -> Objects:
    roles = [{"name": "writer", "modelFrom": {"modelPoolRef": {"name": pool}}, "sampling": {"maxTokens": 100}}]
    return {"roles": roles, "strategy": {"chain": {"steps": [{"name": "draft", "role": "writer"}]}}, "budget": {"perRun": {"tokens": 20000, "wallClock": "2m"}}}


def _essence(resource: Resource, item: Objects, owners: dict[str, str]) -> Objects:
    meta = item["metadata"]
    known = {k: meta[k] for k in ("labels", "annotations", "finalizers") if meta.get(k)}
    if resource is NODES:
        return {"class": (meta.get("labels") or {}).get(ACCELERATOR_CLASS)}
    if resource is DEPLOYMENTS:
        known["annotations"] = {k: v for k, v in (meta.get("annotations") or {}).items() if not k.startswith("deployment.kubernetes.io/")}
    of = [{**{k: v for k, v in o.items() if k != "uid"}, "owner": owners.get(o["uid"], "nobody that exists")} for o in meta.get("ownerReferences") or []]
    spec = {k: v for k, v in (item.get("spec") or {}).items() if k not in ("clusterIP", "clusterIPs")}
    ours = {"meta": known, "owners": of, "spec": spec}
    return ours | ({"status": _timeless(item.get("status") or {})} if resource in OURS else {})


_TIMES = ("time", "lastTransitionTime", "freeSince", "retryAfter", "observedGeneration", "lastDecision", "revision")
"""Times and counts, and two more: a team's revision is a hash over its namespace, too; ``lastDecision`` tells of the last change of replicas that a status
saw, so of two changes between two writes it tells the second alone."""


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in _TIMES}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def differences(was: Any, now: Any, path: str = "") -> Iterator[str]:
    """What differs, a line each."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted({*was, *now}):
            yield from differences(was.get(key, "nothing"), now.get(key, "nothing"), f"{path}.{key}")
    elif was != now:
        yield f"{path}: {str(was)[:400]} became {str(now)[:400]}"
