"""Promise: our processes may die as often as they like under load, and a node may go; no request fails that must not, and the fleet is as it was.

Fifty requests a second on a lab of two cores, where a model would answer a few of them: the load is for a pool of its own, a remote endpoint that this test
serves beside the nodes and that writes two words at no cost; every fifth answer is a stream. The load goes by the clock (a late answer delays no later
request), so that an interruption is met by fifty requests a second and not by as many as the gateway happens to let through.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from tests.support.envoy import Reply, Request, Upstream, completion, stream

from e2e.cluster import wait_until
from e2e.fleet import DEMO, Fleet
from e2e.lab.network import HOST_ADDRESS
from e2e.test_faults import _kill, _lab, _pids

pytestmark = [pytest.mark.lab, pytest.mark.faults, pytest.mark.timeout(1800)]

PER_SECOND = 50
STREAM_EVERY = 5
KILLS = 10
LATEST = 0.2
"""Seconds by which the load may lag behind its clock, on average, and still be called fifty a second."""


@dataclass
class Load:
    """What the load saw. ``failures``: sentences; ``why``: the decisions' words."""

    asked: int = 0
    answers: int = 0
    lag: float = 0.0
    failures: list[str] = field(default_factory=list)
    why: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float:
        """Answers per second so far."""
        return self.answers / (time.monotonic() - self.began)


async def _ask(client: httpx.AsyncClient, model: str, seen: Load, *, stream: bool) -> None:
    body: dict[str, Any] = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi."}]} | ({"stream": True} if stream else {})
    try:
        answer = await client.post("/v1/chat/completions", json=body)
    except httpx.HTTPError as error:
        seen.failures.append(f"{type(error).__name__}: {error}"[:300])
        return
    whole = b"[DONE]" in answer.content if stream else answer.status_code == 200 and bool(answer.json()["choices"])
    if answer.status_code != 200 or not whole:
        seen.failures.append(f"{answer.status_code} {answer.text[:300]}")
        return
    seen.answers += 1
    seen.why[answer.headers["x-modelfleet-decision"].rpartition("why=")[2]] += 1


async def _load(url: str, model: str, seen: Load, stop: threading.Event) -> None:
    limits = httpx.Limits(max_connections=400, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits, trust_env=False) as client, asyncio.TaskGroup() as group:
        began = time.monotonic()
        while not stop.is_set():
            due = began + seen.asked / PER_SECOND
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            seen.lag += time.monotonic() - due
            group.create_task(_ask(client, model, seen, stream=seen.asked % STREAM_EVERY == 0))
            seen.asked += 1


@contextmanager
def fifty_a_second(fleet: Fleet, model: str) -> Iterator[Load]:
    """Ask by the clock for as long as the block runs, and wait for all answers."""
    seen, stop = Load(), threading.Event()
    worker = threading.Thread(target=lambda: asyncio.run(_load(fleet.gateway, model, seen, stop)), daemon=True)
    worker.start()
    try:
        yield seen
    finally:
        stop.set()
        worker.join(timeout=120)
    assert seen.asked > PER_SECOND
    assert seen.lag / seen.asked < LATEST, f"the load itself was late: {seen}"
    print(f"{seen.answers} answers, {seen.rate:.0f}/s, {len(seen.failures)} failures, {dict(seen.why)}")


def _reply(request: Request) -> Reply:
    if request.method == "GET":
        return Reply(body=b'{"object": "list", "data": []}')
    return stream(words=2, pause=0.02) if request.json.get("stream") else completion(made=2)


@contextmanager
def _endpoint() -> Iterator[str]:
    """An endpoint that costs next to nothing, on the nodes' network; its URL."""
    loop, upstream = asyncio.new_event_loop(), Upstream(_reply)

    async def start() -> int:
        upstream._server = await asyncio.start_server(upstream._serve, HOST_ADDRESS, 0)
        return int(upstream._server.sockets[0].getsockname()[1])

    worker = threading.Thread(target=loop.run_forever, daemon=True)
    worker.start()
    try:
        yield f"http://{HOST_ADDRESS}:{asyncio.run_coroutine_threadsafe(start(), loop).result(20)}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(upstream.stop(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        worker.join(timeout=20)


@pytest.fixture(params=["decided", "compiled"])
def quick_model(fleet: Fleet, request: pytest.FixtureRequest) -> Iterator[str]:
    """A model name whose answers cost next to nothing. ``decided``: the router is asked about each request."""
    _lab(fleet)
    with _endpoint() as url:
        yield from _served_by_endpoint(fleet, f"quick-{request.param}", url, decided=request.param == "decided")


def _served_by_endpoint(fleet: Fleet, name: str, url: str, *, decided: bool) -> Iterator[str]:
    price = {"inputPerMillion": "1", "outputPerMillion": "2"}
    flavor = {"name": "far", "endpoint": {"url": url, "model": "quick", "concurrency": 1000, "price": price}}
    policy: dict[str, Any] = {"entrypoints": [{"name": name}], "candidates": [{"name": "it", "poolRef": {"name": name}}], "default": {"chain": ["it"]}}
    if decided:
        policy["rules"] = [{"name": "huge", "match": {"inputTokens": {"min": 100_000}}}]
    for kind, spec in (("ModelPool", {"model": {"name": name, "source": "hf://org/none"}, "flavors": [flavor]}), ("RoutingPolicy", policy)):
        fleet.apply({"apiVersion": "modelfleet.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": DEMO}, "spec": spec})
    try:
        wait_until(lambda: _answers(fleet, name), 60, f"{name} to answer")
        yield name
    finally:
        fleet.cluster.kubectl("-n", DEMO, "delete", f"routingpolicy/{name}", f"modelpool/{name}", "--ignore-not-found")


def _answers(fleet: Fleet, model: str) -> bool:
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi."}]}
    try:
        return httpx.post(f"{fleet.gateway}/v1/chat/completions", json=body, timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


def _kill_once_back(fleet: Fleet, process: str, seen: Load) -> None:
    """SIGKILL, then a new process, then two more seconds of answers."""
    before = set(_pids(fleet, process))
    wanted = seen.answers + 2 * PER_SECOND
    _kill(fleet, process)
    wait_until(lambda: set(_pids(fleet, process)) - before, 400, f"a new {process}")
    wait_until(lambda: seen.answers >= wanted, 60, "answers after the kill", explain=lambda: seen)


@pytest.mark.parametrize("process", ["router", "operator"])
def test_ten_kills_under_fifty_requests_a_second_fail_no_request(fleet: Fleet, quick_model: str, process: str) -> None:
    """A decided route falls back to its static chain while the router is away; a compiled one never notices."""
    with fifty_a_second(fleet, quick_model) as seen:
        wait_until(lambda: seen.answers >= PER_SECOND, 60, "first answers", explain=lambda: seen)
        for _ in range(KILLS):
            _kill_once_back(fleet, process, seen)
    assert seen.failures == []
    if quick_model == "quick-compiled":
        assert set(seen.why) == {"Compiled"}
    elif process == "router":
        assert seen.why["DeciderLost"] > 0, "the kills were felt"


def test_ten_kills_of_the_operator_while_the_fleet_changes_leave_the_same_objects(fleet: Fleet) -> None:
    def objects() -> dict[str, str]:
        found = fleet.cluster.get("deployments,services", namespace=DEMO, selector="app.kubernetes.io/managed-by=modelfleet")["items"]
        return {f"{o['kind']}/{o['metadata']['name']}": o["metadata"]["uid"] for o in found}

    before = objects()
    for number in range(KILLS):
        fleet.cluster.kubectl("-n", DEMO, "scale", "modelpool/small", f"--replicas={2 - number % 2}")
        old = set(_pids(fleet, "operator"))
        _kill(fleet, "operator")
        wait_until(lambda o=old: set(_pids(fleet, "operator")) - o, 400, "a new operator")
    fleet.cluster.kubectl("-n", DEMO, "scale", "modelpool/small", "--replicas=1")
    fleet.settle(400)
    assert objects() == before, "none lost, none twice, none made anew"


def test_a_node_that_is_gone_moves_its_pods_and_its_return_is_used(fleet: Fleet) -> None:
    """The node's object is deleted and its kubelet stopped, as a cloud takes a machine away; requests go to where there are devices."""
    lab, kubectl = _lab(fleet), fleet.cluster.kubectl
    (pod,) = fleet.pods("boss", "h100")
    name = pod["spec"]["nodeName"]
    node = fleet.cluster.get("node", name)
    kubelet = next(lab.process(p) for p in lab.process_names if "kubelet" in p and name in p)
    assert kubelet.pid is not None
    kubelet.signal(signal.SIGSTOP)
    try:
        kubectl("delete", "node", name, "--wait=false")
        kubectl("-n", DEMO, "delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0", "--wait=false")
        wait_until(lambda: fleet.flavor("boss", "h100").get("reason") == "NoMatchingNodes", 90, "the status to name the loss")
        wait_until(lambda: fleet.flavor("boss", "l4").get("ready") == 1, 120, "the boss to run on l4", explain=lambda: fleet.pool("boss").get("status"))
        answer = fleet.ask("What is a node?", max_tokens=4, tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}])
        assert answer.pool == f"{DEMO}/boss"
        assert answer.flavor != "h100"
    finally:
        os.kill(kubelet.pid, signal.SIGCONT)
        # a kubelet registers once, when it starts: the object comes back as it was, without what the API server gave it
        meta = {k: v for k, v in node["metadata"].items() if k in ("name", "labels", "annotations")}
        fleet.apply({"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {k: v for k, v in node["spec"].items() if k != "taints"}})
        lab.set_devices(name, 1)
    fleet.settle(400)
    assert [p["spec"]["nodeName"] for p in fleet.pods("boss")] == [name]
