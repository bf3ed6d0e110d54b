"""What a gateway says on its own port reaches the status of the pool it speaks of."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from tests.operator.running import eventually

from modelfleet.kube.resources import MODEL_POOLS, PODS
from modelfleet.observability import metrics

ADDRESS = "127.0.0.31"


@pytest.fixture
async def router():
    """The /metrics of a router, on the port of a gateway pod; tests set `.up`."""
    registry = CollectorRegistry()
    heartbeat = Gauge(metrics.HEARTBEAT, "h", registry=registry)
    up = Gauge(metrics.ENDPOINT_UP, "e", ["pool", "flavor", "reason"], registry=registry)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        heartbeat.set(time.time())
        body = generate_latest(registry)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, ADDRESS, 0)
    server.up, server.port = up, server.sockets[0].getsockname()[1]
    yield server
    server.close()


async def test_a_refused_key_reaches_the_status_and_leaves_it_again(fleet, server, start, router):
    pool = fleet.pool("boss")
    pool["spec"]["flavors"].append(
        {
            "name": "burst",
            "endpoint": {
                "url": "https://models.example.com/v1", "model": "m", "authSecretRef": {"name": "key", "key": "token"},
                "price": {"inputPerMillion": "0.60", "outputPerMillion": "2.40"},
            },
        }
    )  # fmt: skip
    await fleet.a_class()
    await fleet.client.apply(MODEL_POOLS, fleet.namespace, "boss", {"spec": pool["spec"]}, "test")
    labels = {"app.kubernetes.io/component": "gateway", "app.kubernetes.io/part-of": "modelfleet"}
    pod = {"metadata": {"name": "gateway-1", "labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    await fleet.client.create(PODS, fleet.namespace, pod)
    status = {"phase": "Running", "podIP": ADDRESS, "podIPs": [{"ip": ADDRESS}], "conditions": [{"type": "Ready", "status": "True"}]}
    await fleet.client.merge_patch(PODS, fleet.namespace, "gateway-1", {"status": status}, subresource="status")

    key = f"{fleet.namespace}/boss"
    router.up.labels(key, "burst", "KeyRefused").set(0)
    operator = start(server.kubeconfig, SCRAPE_PORT=str(router.port))
    await operator.leads()
    await eventually(lambda: _burst(fleet, reachable=False), operator.story)
    assert "KeyRefused" in str(await fleet.pool_status("boss"))

    router.up.clear()
    router.up.labels(key, "burst", "").set(1)
    await eventually(lambda: _burst(fleet, reachable=True), operator.story)


async def _burst(fleet: Any, *, reachable: bool) -> bool:
    flavors = (await fleet.pool_status("boss")).get("flavors") or []
    return any(f["name"] == "burst" and f.get("reachable") is reachable for f in flavors)
