"""The objects of the bench: pools with two ready pods, policies that need a decision and policies that do not, one team, and a fleet around them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

NAMESPACE = "bench"
POOLS = ("small", "large", "moving")
PORT_NAME = "http"
OTHERS = 20
"""Policies and pools that are only there, so that a change is compiled within a fleet."""

# never matches the bench's requests but has to look at them
LOOKS = {"name": "huge", "match": {"inputTokens": {"min": 100_000}}, "candidates": ["large", "small"]}


def everything(addresses: Sequence[str], port: int) -> list[dict[str, Any]]:
    """All objects, in an order that can be applied."""
    others = [f"other-{n:02}" for n in range(OTHERS)]
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        _class(),
        *(pool(name) for name in (*POOLS, *others)),
        *(endpoint_slice(name, addresses, port) for name in ("small", "large", *others)),
        endpoint_slice("moving", addresses[:1], port),
        *(policy(name, decided=decided) for name, decided in (("decided", True), ("compiled", False), ("follow-decided", True), ("follow-compiled", False))),
        policy("moving", decided=False, pools=("moving",)),
        *(policy(name, decided=n % 2 == 0, pools=(name, "small")) for n, name in enumerate(others)),
        team(),
    ]


def manifest(objects: Sequence[dict[str, Any]]) -> str:
    """Objects as one text that `kubectl apply` reads."""
    return "\n---\n".join(json.dumps(o) for o in objects)


def pool(name: str) -> dict[str, Any]:
    """A pool of pods on a class that exists."""
    flavor = {"name": "gpu", "acceleratorClass": "bench-gpu", "devices": 1}
    return _ours("ModelPool", name, {"model": {"name": f"{name}-model", "source": "hf://o/r"}, "engine": {"type": "LlamaCpp"}, "flavors": [flavor]})


def policy(name: str, *, decided: bool, pools: Sequence[str] = ("small", "large")) -> dict[str, Any]:
    """A policy whose model name is its own. `decided`: a rule looks at the size of every request; else nothing depends on what a request says."""
    rule = LOOKS | {"candidates": list(pools)}
    spec: dict[str, Any] = {
        "entrypoints": [{"name": name}],
        "candidates": [{"name": p, "poolRef": {"name": p}} for p in pools],
        "default": {"chain": list(pools)},
    }
    return _ours("RoutingPolicy", name, spec | ({"rules": [rule]} if decided else {}))


def chain_patch(pools: Sequence[str]) -> dict[str, Any]:
    """The change that is followed: another order of the default chain."""
    return {"spec": {"default": {"chain": list(pools)}}}


def endpoint_slice(pool_name: str, addresses: Sequence[str], port: int) -> dict[str, Any]:
    """The ready pods of a pool, as its Service's slice."""
    labels = {"modelfleet.dev/pool": pool_name, "modelfleet.dev/flavor": "gpu", "kubernetes.io/service-name": f"{pool_name}-gpu"}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{pool_name}-gpu-x", "namespace": NAMESPACE, "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": PORT_NAME, "port": port}],
    } | endpoints(addresses)


def endpoints(addresses: Sequence[str]) -> dict[str, Any]:
    """The part of a slice that says who is ready."""
    return {"endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses]}


def team() -> dict[str, Any]:
    """A team that nobody asks."""
    role = {"name": "boss", "modelFrom": {"modelPoolRef": {"name": "large"}}, "instructions": "Answer.", "sampling": {"maxTokens": 40}}
    spec = {"roles": [role], "strategy": {"chain": {"steps": [{"name": "only", "role": "boss"}]}}, "budget": {"perRun": {"cost": "0.5", "wallClock": "60s"}}}
    return _ours("AgentTeam", "review", spec)


def body(model: str, size: int = 1100) -> bytes:
    """A chat request of about `size` bytes."""
    system = {"role": "system", "content": "You answer questions about a warehouse, briefly and with the number of the shelf."}
    text = "Where do the blue boxes stand, and how many of them are left? "
    request = {"model": model, "messages": [system, {"role": "user", "content": text}], "temperature": 0.2, "max_tokens": 64}
    missing = max(0, size - len(json.dumps(request)))
    request["messages"] = [system, {"role": "user", "content": text + (text * (missing // len(text) + 1))[:missing]}]
    return json.dumps(request).encode()


def _class() -> dict[str, Any]:
    nodes = [{"resource": "example.com/gpu", "matchLabels": {"example.com/card": "bench"}}]
    spec = {"vendor": "Any", "device": "Card", "nodes": nodes, "price": {"perDeviceHour": "1.50"}}
    return {"apiVersion": "modelfleet.dev/v1alpha1", "kind": "AcceleratorClass", "metadata": {"name": "bench-gpu"}, "spec": spec}


def _ours(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "modelfleet.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}
