"""Plans and requests for tests of deciding: short YAML in, decisions out."""

from __future__ import annotations

import json
import re
from typing import Any

from modelfleet.api.v1alpha1 import ModelPool, RoutingPolicy
from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.ir import Address, RoutingPlan, RoutingWorld


def a_plan(case: dict[str, Any]) -> RoutingPlan:
    """The plan of one policy ``shop/p``; pools by name: ``ready`` lists pod flavors with a ready pod, ``endpoints`` remote flavors."""
    pools = [_pool(name, spec) for name, spec in case["pools"].items()]
    addresses = {f"shop/{name}": tuple(Address("10.0.0.1", 8000, flavor) for flavor in spec["ready"]) for name, spec in case["pools"].items()}
    policy = RoutingPolicy.model_validate({"metadata": {"name": "p", "namespace": "shop", "generation": 7}, "spec": case["policy"]})
    return compile_routes(RoutingWorld(tuple(pools), (policy,), addresses))


def _pool(name: str, spec: dict[str, Any]) -> ModelPool:
    price = {"inputPerMillion": "1", "outputPerMillion": "2"}
    flavors: list[dict[str, Any]] = [{"name": flavor, "acceleratorClass": "any"} for flavor in spec["ready"] or ["gpu"]]
    flavors += [{"name": flavor, "endpoint": {"url": f"https://{flavor}.example/v1", "model": "x", "price": price}} for flavor in spec.get("endpoints", ())]
    raw = {"model": {"name": f"{name}-model", "source": "hf://o/r"}, "engine": {"type": "LlamaCpp"}, "flavors": flavors}
    return ModelPool.model_validate({"metadata": {"name": name, "namespace": "shop"}, "spec": raw})


def body_of(request: dict[str, Any]) -> bytes:
    """``text`` as it is, or ``body`` as JSON, ``{x*N}`` written out."""
    if "text" in request:
        return str(request["text"]).encode()
    return re.sub(r"\{x\*(\d+)\}", lambda m: "x" * int(m[1]), json.dumps(request["body"])).encode()
