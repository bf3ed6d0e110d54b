"""The real operator as a process, and a small fleet for it: classes, nodes and pools as API objects, no kubelet, no controllers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
from tests.support.proxy import ApiProxy, Seen

from modelfleet.core.render.labels import ACCELERATOR_CLASS
from modelfleet.kube.client import Client
from modelfleet.kube.resources import ACCELERATOR_CLASSES, DEPLOYMENTS, LEASES, MODEL_POOLS, NAMESPACES, NODES, PODS, ROUTING_POLICIES, SERVICES

LEASE = "modelfleet-operator"
QUICK = {"LEASE_DURATION": "6", "LEASE_DEADLINE": "5", "LEASE_RENEW": "0.5"}
"""A Lease to lose: longer than a busy machine stands still."""
HELD = {"LEASE_DURATION": "120", "LEASE_DEADLINE": "100", "LEASE_RENEW": "0.5"}
"""A Lease that no stall takes away; who wants the next operator to lead at once deletes it."""
PATIENT = HELD | {"LEASE_RENEW": "5"}
GPU = "example.com/gpu"


async def eventually(condition: Callable[[], Any], what: str | Callable[[], str], seconds: float = 90.0) -> Any:
    """Wait until the condition (a function or a coroutine function) holds and return what it gave."""
    result: Any = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                result = condition()
                if asyncio.iscoroutine(result):
                    result = await result
                if result:
                    return result
                await asyncio.sleep(0.03)
    except TimeoutError:
        raise AssertionError(f"never happened: {what if isinstance(what, str) else what()}; last seen: {result!r}") from None


class OperatorProcess:
    """`python -m modelfleet operator`, with its log and its probes."""

    def __init__(self, folder: Path, kubeconfig: Path, namespace: str, **settings: str) -> None:
        self.log = folder / f"operator-{uuid4().hex[:6]}.log"
        self.port = _free_port()
        kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith(("MODELFLEET_", "KUBE"))}
        told = {"NAMESPACE": namespace, "PORT": str(self.port), "LOG_LEVEL": "debug", "SCRAPE_INTERVAL": "0.2", **HELD, **settings}
        environment = {**kept, "POD_NAME": self.log.stem, **{f"MODELFLEET_{k}": v for k, v in told.items()}}
        command = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "modelfleet", "operator", "--kubeconfig", str(kubeconfig)]
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()

    def ended(self) -> bool:
        return self._process.poll() is not None

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def story(self) -> str:
        return f"the operator's log:\n{self.text()[-6000:]}"

    async def ends(self, seconds: float = 90.0) -> int:
        """The exit code; fails with the log when the process goes on."""
        await eventually(self.ended, self.story, seconds)
        return self._process.returncode

    async def ask(self, path: str) -> tuple[int, str]:
        """Status and text of a probe; status 0: no answer."""
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                answer = await client.get(f"http://127.0.0.1:{self.port}{path}")
        except httpx.HTTPError:
            return 0, ""
        return answer.status_code, answer.text

    async def leads(self) -> None:
        """Wait until it leads, is ready and has planned."""

        async def leading() -> bool:
            assert not self.ended(), self.story()
            return (await self.ask("/readyz"))[0] == 200 and "modelfleet_operator_leader 1.0" in (await self.ask("/metrics"))[1]

        await eventually(leading, self.story)

    async def metric(self, name: str) -> float:
        for line in (await self.ask("/metrics"))[1].splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def close(self) -> None:
        if not self.ended():
            self._process.kill()
        self._process.wait(timeout=60)


class Fleet:
    """Objects of one test, made and read past the operator."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.client, self.namespace = client, namespace

    async def a_class(self, name: str = "gpu") -> None:
        spec = {"vendor": "Any", "device": "Card", "nodes": [{"resource": GPU, "matchLabels": {"example.com/card": name}}], "price": {"perDeviceHour": "1.50"}}
        await self.client.apply(ACCELERATOR_CLASSES, None, name, {"spec": spec}, "test")

    async def a_node(self, name: str = "node-1", card: str = "gpu", devices: int = 8) -> None:
        amounts = {"cpu": "8", "memory": "16Gi", "pods": "110", GPU: str(devices)}
        status = {"capacity": amounts, "allocatable": amounts, "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ok"}]}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"example.com/card": card}}, "status": status}
        await self.client.create(NODES, None, body)
        await self.client.merge_patch(NODES, None, name, {"spec": {"taints": None}})  # admission adds not-ready to new nodes; no controller takes it away

    def pool(self, name: str = "small", replicas: int = 1) -> dict[str, Any]:
        return {
            "apiVersion": "modelfleet.dev/v1alpha1", "kind": "ModelPool", "metadata": {"namespace": self.namespace, "name": name},
            "spec": {
                "model": {"name": name, "source": "hf://org/model"},
                "engine": {"type": "LlamaCpp", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}},
                "flavors": [{"name": "card", "acceleratorClass": "gpu", "devices": 1}],
                "replicas": replicas, "scaling": {"mode": "Manual", "min": 0, "max": 8},
            },
        }  # fmt: skip

    async def a_pool(self, name: str = "small", replicas: int = 1) -> None:
        await self.client.apply(MODEL_POOLS, self.namespace, name, {"spec": self.pool(name, replicas)["spec"]}, "test")

    async def a_fleet(self, *pools: str) -> None:
        """A class, a node and pools."""
        await self.a_class()
        await self.a_node()
        for name in pools or ("small",):
            await self.a_pool(name)

    async def names(self, resource: Any) -> list[str]:
        items, _ = await self.client.list(resource, self.namespace)
        return sorted(item["metadata"]["name"] for item in items)

    async def deployments(self) -> list[str]:
        return await self.names(DEPLOYMENTS)

    async def has_children(self, *pools: str) -> bool:
        """True when exactly these pools have a Deployment and a Service."""
        wanted = sorted(f"{pool}-card" for pool in pools)
        return await self.names(DEPLOYMENTS) == wanted and await self.names(SERVICES) == wanted

    async def pool_status(self, name: str = "small") -> dict[str, Any]:
        return (await self.client.get(MODEL_POOLS, self.namespace, name)).get("status") or {}

    async def settled(self, *pools: str) -> bool:
        """Children, statuses and the node's label are all there."""
        if not await self.has_children(*pools):
            return False
        for pool in pools:
            conditions = (await self.pool_status(pool)).get("conditions") or []
            if not any(c["type"] == "Ready" for c in conditions):
                return False
        status = (await self.client.get(ACCELERATOR_CLASSES, None, "gpu")).get("status") or {}
        node = await self.client.get(NODES, None, "node-1")
        return bool(status) and node["metadata"]["labels"].get(ACCELERATOR_CLASS) == "gpu"

    async def holder(self) -> str | None:
        """Who holds the Lease: "" when released, None when there is none."""
        leases, _ = await self.client.list(LEASES, self.namespace)
        return leases[0]["spec"].get("holderIdentity") or "" if leases else None

    async def no_lease(self) -> None:
        """As if the Lease had expired."""
        if await self.holder() is not None:
            await self.client.delete(LEASES, self.namespace, LEASE)

    async def steal_lease(self, thief: str = "somebody-else") -> None:
        spec = {"holderIdentity": thief, "leaseDurationSeconds": 3600, "renewTime": "2026-01-01T00:00:00.000000Z"}
        await self.client.merge_patch(LEASES, self.namespace, LEASE, {"spec": spec})

    async def clear(self) -> None:
        """Delete everything that operators look at, in every namespace."""
        for resource in (MODEL_POOLS, ROUTING_POLICIES, ACCELERATOR_CLASSES, DEPLOYMENTS, SERVICES, LEASES, PODS, NODES):
            items, _ = await self.client.list(resource)
            for item in items:
                meta = item["metadata"]
                if meta["name"] != "kubernetes":
                    await self.client.delete(resource, meta.get("namespace"), meta["name"])


async def make_fleet(client: Client) -> Fleet:
    """A fleet in a namespace of its own; nothing of earlier tests is left."""
    name = f"op-{uuid4().hex[:8]}"
    await client.create(NAMESPACES, None, {"metadata": {"name": name}})
    fleet = Fleet(client, name)
    await fleet.clear()
    return fleet


async def resting(operator: OperatorProcess, proxy: ApiProxy) -> bool:
    """Whether four cycles passed without a write; for an operator with a short resync."""
    before, cycles = len([w for w in proxy.written() if is_work(w)]), await operator.metric("modelfleet_operator_cycles_total")

    async def went_on() -> bool:
        return await operator.metric("modelfleet_operator_cycles_total") >= cycles + 4

    await eventually(went_on, operator.story)
    return len([w for w in proxy.written() if is_work(w)]) == before


def is_lease(seen: Seen) -> bool:
    return "/leases" in seen.path


def is_work(seen: Seen) -> bool:
    """A write that is not the Lease's."""
    return bool(seen.write) and not is_lease(seen)


def told(writes: list[Seen]) -> list[str]:
    """Writes in words, for a failing assertion."""
    return [f"{w.verb} {w.path} {orjson.dumps(orjson.loads(w.body)).decode()[:300] if w.body else ''}" for w in writes]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
