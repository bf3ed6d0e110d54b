"""Decisions per second of CPU: Checks over gRPC to the running router, the same bytes to bytes in this process, and the bare pure functions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc.aio
from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf import json_format

from modelfleet.api.v1alpha1 import ModelPool, RoutingPolicy
from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.decide import decide, routing_table
from modelfleet.core.routing.ir import Address, RoutingPlan, RoutingWorld
from modelfleet.core.routing.request import read_request
from modelfleet.router.authz import Decider

from . import objects
from .figures import Json, across
from .processes import Started
from .scene import Scene

_CHECK = "/envoy.service.auth.v3.Authorization/Check"
_AT_ONCE = 16


def decisions(scene: Scene, blocks: int, seconds: float) -> Json:
    """Per CPU-second, over the blocks: `check`, `answer`, `decide`."""
    plan = the_plan(scene)
    found: dict[str, list[float]] = {"check": [], "answer": [], "decide": []}
    for _ in range(blocks):
        found["check"].append(asyncio.run(_checks(f"unix:{scene.folder}/run/authz.sock", scene.started["router"], seconds)))
        found["answer"].append(_spin(_answering(plan), seconds / 2))
        found["decide"].append(_spin(_deciding(plan), seconds / 2))
    return {name: across(values) for name, values in found.items()}


def the_plan(scene: Scene) -> RoutingPlan:
    """What the router made of the same objects."""
    made = objects.everything(scene.addresses, scene.upstream_port)
    pools = tuple(ModelPool.model_validate(o) for o in made if o["kind"] == "ModelPool")
    ready = {pool.key: tuple(Address(a, scene.upstream_port, "gpu") for a in scene.addresses) for pool in pools}
    return compile_routes(RoutingWorld(pools, tuple(RoutingPolicy.model_validate(o) for o in made if o["kind"] == "RoutingPolicy"), ready))


def a_check(model: str = "decided") -> bytes:
    """A CheckRequest as Envoy sends it for one of the bench's requests."""
    body = objects.body(model)
    headers = {
        ":method": "POST", ":path": "/v1/chat/completions", ":authority": "127.0.0.1", ":scheme": "http", "content-type": "application/json",
        "content-length": str(len(body)), "user-agent": "Go-http-client/1.1", "accept-encoding": "gzip", "x-forwarded-proto": "http",
        "x-request-id": "0f6b3f8e-2a52-4d0b-9e0a-6f1d7c1b2a3d", "x-modelfleet-caller": "127.0.0.1",
    }  # fmt: skip
    request = external_auth_pb2.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host, http.protocol, http.size = "POST", "/v1/chat/completions", "127.0.0.1", "HTTP/1.1", len(body)
    http.raw_body = body
    http.headers.update(headers)
    request.attributes.context_extensions["policy"] = f"{objects.NAMESPACE}/{model}"
    json_format.ParseDict({"model": model}, request.attributes.metadata_context.filter_metadata["modelfleet.request"])
    return bytes(request.SerializeToString())


async def _checks(target: str, router: Started, seconds: float) -> float:
    payload, done = a_check(), 0
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary(_CHECK)
        if not external_auth_pb2.CheckResponse.FromString(await call(payload)).ok_response.headers:
            raise AssertionError("the router did not decide")
        before, end = router.cpu, time.monotonic() + seconds

        async def ask() -> None:
            nonlocal done
            while time.monotonic() < end:
                await call(payload)
                done += 1

        await asyncio.gather(*(ask() for _ in range(_AT_ONCE)))
        return done / (router.cpu - before)


def _answering(plan: RoutingPlan) -> Callable[[], object]:
    decider, payload = Decider(), a_check()
    decider.use(plan)

    def once() -> object:
        return decider.check(external_auth_pb2.CheckRequest.FromString(payload))

    if once() is None:
        raise AssertionError("the plan does not hold the bench's policy")
    return once


def _deciding(plan: RoutingPlan) -> Callable[[], object]:
    table, body, headers = routing_table(plan), objects.body("decided"), {"content-type": "application/json"}
    return lambda: decide(table, read_request(body, headers, "decided"), "x", route_policy=f"{objects.NAMESPACE}/decided")


def _spin(once: Callable[[], object], seconds: float) -> float:
    """Calls per CPU-second of this process."""
    number, began, end = 0, time.process_time(), time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(100):
            once()
        number += 100
    return number / (time.process_time() - began)
