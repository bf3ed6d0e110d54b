"""A fleet of one size on a real API server of its own, the operator beside it as a process, and the bare loop that it is measured against."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import aiohttp
import httpx
import orjson
from tests.support.apiserver import ApiServer

from e2e.lab.steps import LabError
from modelfleet.controller.observe import observe_once
from modelfleet.core.plan import Plan, StatusWrite
from modelfleet.core.reconcile import plan_fleet
from modelfleet.core.world import Defaults
from modelfleet.kube.client import Client
from modelfleet.kube.resources import ACCELERATOR_CLASSES, DEPLOYMENTS, MODEL_POOLS, NAMESPACES, NODES, PODS, SERVICES, of_kind

from . import scale_objects as objects
from .processes import Started, free_port, start

AT_ONCE = 16
AGENT = "modelfleet-operator"
MANAGERS = {True: "modelfleet", False: "modelfleet-status"}
_WRITES = frozenset({"create", "update", "patch", "delete"})


class ScaleScene:
    """Use as an asynchronous context manager."""

    def __init__(self, pools: int) -> None:
        self.pools = pools
        self.folder = Path(tempfile.mkdtemp(prefix="mfs-", dir="/tmp"))
        self.port = free_port()
        self.operator: Started | None = None
        self._lives = 0

    async def __aenter__(self) -> Self:
        self.server = ApiServer()
        try:
            self.server.apply_crds()
            self.client = await Client.connect("bench", self.server.kubeconfig)
            await self._the_cluster()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop_operator()
        if hasattr(self, "client"):
            await self.client.close()
        self.server.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # What is stored

    async def _the_cluster(self) -> None:
        await at_once(objects.NAMESPACES, lambda name: self.client.create(NAMESPACES, None, objects.namespace(name)))
        await at_once(objects.CARDS, lambda card: self.client.apply(ACCELERATOR_CLASSES, None, card, objects.accelerator_class(card), "bench"))
        await at_once(range(objects.NODES), self._a_node)

    async def _a_node(self, number: int) -> None:
        made, patch = objects.node(number)
        await self.client.create(NODES, None, made)
        await self.client.merge_patch(NODES, None, made["metadata"]["name"], patch)

    async def store_pools(self) -> None:
        """All pools, as their owners apply them."""
        made = [objects.pool(n) for n in range(self.pools)]
        await at_once(made, lambda p: self.client.apply(MODEL_POOLS, p["metadata"]["namespace"], p["metadata"]["name"], {"spec": p["spec"]}, "bench"))

    async def store_pods(self) -> int:
        """A ready pod for every replica: what scheduler and kubelets would come to. Answers how many."""
        deployments, _ = await self.client.list(DEPLOYMENTS)
        wanted = [d for d in deployments if d["spec"]["replicas"]]
        await at_once(list(enumerate(wanted)), self._a_pod)
        return len(wanted)

    async def _a_pod(self, numbered: tuple[int, dict[str, Any]]) -> None:
        made, status = objects.ready_pod(numbered[1], numbered[0])
        space, name = made["metadata"]["namespace"], made["metadata"]["name"]
        await self.client.create(PODS, space, made)
        await self.client.merge_patch(PODS, space, name, status, subresource="status")

    async def forget_everything(self) -> None:
        """Delete pools, children and pods, so that the same can be written anew."""
        for resource in (MODEL_POOLS, DEPLOYMENTS, SERVICES, PODS):
            items, _ = await self.client.list(resource, metadata_only=True)
            doomed = [i["metadata"] for i in items if i["metadata"].get("namespace") in objects.NAMESPACES]
            await at_once(doomed, lambda m, r=resource: self.client.delete(r, m["namespace"], m["name"]))

    # The operator

    def start_operator(self) -> None:
        """The process, with the chart's settings."""
        self._lives += 1
        environment = {"POD_NAME": f"operator-{self._lives}", "MODELFLEET_NAMESPACE": objects.NAMESPACES[0], "MODELFLEET_PORT": str(self.port)}
        command = (sys.executable, "-m", "modelfleet", "operator", "--kubeconfig", self.server.kubeconfig)
        self.operator = start(self.folder, f"operator-{self._lives}", *command, env=environment)

    def stop_operator(self) -> None:
        """SIGTERM, and wait."""
        if self.operator is not None:
            self.operator.stop(grace=20.0)
            self.operator = None

    async def ready(self) -> bool:
        """True when it leads and has planned with everything in view."""
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
                if (await client.get(f"http://127.0.0.1:{self.port}/readyz")).status_code != 200:
                    return False
        except httpx.HTTPError:
            return False
        return (await self.series()).get("modelfleet_operator_cycles_total", 0.0) > 0

    async def series(self) -> dict[str, float]:
        """The operator's metrics, by name with labels; nothing while it does not answer."""
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
                text = (await client.get(f"http://127.0.0.1:{self.port}/metrics")).text
        except httpx.HTTPError:
            return {}
        pairs = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    async def writes(self) -> float:
        """Calls that asked for a change so far, without the Lease's."""
        found = await self.series()
        return sum(v for name, v in found.items() if name.startswith("modelfleet_operator_writes_total") and 'kind="Lease"' not in name)

    async def settled(self, least: float, seconds: float = 600.0, calm: float = 3.0) -> None:
        """Wait until the operator has made so many writes at least and then none for `calm` seconds. Raises LabError."""
        end, last, since = time.monotonic() + seconds, -1.0, time.monotonic()
        while time.monotonic() < end:
            if self.operator is not None:
                self.operator.process.check()
            now = await self.writes()
            if now != last:
                last, since = now, time.monotonic()
            elif now >= least and time.monotonic() - since >= calm:
                return
            await asyncio.sleep(0.25)
        raise LabError(f"the operator has made {last:.0f} writes after {seconds:.0f} s and not come to rest; logs in {self.folder}/logs")

    def operator_writes(self, since: datetime) -> list[tuple[str, datetime]]:
        """(resource, when answered) of every write of the operator since then, from the audit log; `modelpools/status` is a resource here."""
        found = []
        for event in self.server.audit_events():
            if event["stage"] != "ResponseComplete" or event["verb"] not in _WRITES or not str(event.get("userAgent", "")).startswith(AGENT):
                continue
            of = event["objectRef"]
            at = datetime.fromisoformat(event["stageTimestamp"])
            if at >= since and of["resource"] != "leases":
                found.append((of["resource"] + (f"/{of['subresource']}" if of.get("subresource") else ""), at))
        return found

    def led_since(self) -> datetime:
        """When the Lease was first written: from then on the operator may plan."""
        at = [
            e["stageTimestamp"]
            for e in self.server.audit_events()
            if (e.get("objectRef") or {}).get("resource") == "leases" and e["verb"] in _WRITES and str(e.get("userAgent", "")).startswith(AGENT)
        ]
        return datetime.fromisoformat(min(at))

    # The bare loop

    async def the_plan(self) -> Plan:
        """What the operator would write, from one look at the API server."""
        return plan_fleet((await observe_once(self.client, Defaults())).world)

    async def bare(self, plan: Plan) -> tuple[float, float]:
        """Seconds that a loop of parallel server-side applies takes for the children of a plan, and for its pools' statuses."""
        children = [(of_kind(m["kind"]).path(m["metadata"]["namespace"], m["metadata"]["name"]), orjson.dumps(m), True) for m in plan.children]
        of_pools = [w for w in plan.statuses if w.kind == MODEL_POOLS.kind]
        statuses = [(MODEL_POOLS.path(w.namespace, w.name, "status"), _status_body(w), False) for w in of_pools]
        trust = ssl.create_default_context(cafile=str(self.server.ca_file))
        headers = {"authorization": f"Bearer {self.server.token}", "content-type": "application/apply-patch+yaml"}
        async with aiohttp.ClientSession(self.server.url, connector=aiohttp.TCPConnector(ssl=trust, limit=AT_ONCE), headers=headers) as session:

            async def put(write: tuple[str, bytes, bool]) -> None:
                path, body, child = write
                async with session.patch(path, params={"fieldManager": MANAGERS[child], "force": "true"}, data=body) as response:
                    if response.status >= 300:
                        raise LabError(f"PATCH {path}: {response.status} {(await response.text())[:300]}")
                    await response.read()

            taken = []
            for writes in (children, statuses):
                began = time.monotonic()
                await at_once(writes, put)
                taken.append(time.monotonic() - began)
        return taken[0], taken[1]


def _status_body(write: StatusWrite) -> bytes:
    metadata = {"name": write.name, "namespace": write.namespace}
    return orjson.dumps({"apiVersion": MODEL_POOLS.api_version, "kind": write.kind, "metadata": metadata, "status": write.status})


async def at_once(items: Iterable[Any], do: Callable[[Any], Awaitable[object]], many: int = AT_ONCE) -> None:
    """Do it with every item, so many at a time."""
    left = iter(list(items))

    async def work() -> None:
        for item in left:
            await do(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(many):
            group.create_task(work())
