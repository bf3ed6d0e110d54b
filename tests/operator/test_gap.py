"""What happens while nobody tells us: gaps, lost history, silent streams."""

from __future__ import annotations

import asyncio
import contextlib

from tests.kube.waiting import compact
from tests.operator.running import GPU, PATIENT, eventually
from tests.support.proxy import TcpProxy

from modelfleet.errors import NotFound
from modelfleet.kube.resources import ACCELERATOR_CLASSES, DEPLOYMENTS, MODEL_POOLS, NODES, PODS, SERVICES


async def test_no_ghost_outlives_one_list(fleet, server, start, tmp_path):
    await fleet.a_fleet("small", "ghost")
    await fleet.a_node("node-2")
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "guest"},
        "spec": {"nodeName": "node-2", "containers": [{"name": "c", "image": "i", "resources": {"limits": {GPU: "2"}}}]},
    }  # fmt: skip
    await fleet.client.create(PODS, fleet.namespace, pod)
    async with TcpProxy(server.url) as proxy:
        operator = start(proxy.kubeconfig(tmp_path, server), PACE_GHOSTS="1", PACE_SILENCE="3", PACE_REQUEST="2", **PATIENT)
        await operator.leads()
        await eventually(lambda: fleet.settled("small", "ghost"), operator.story)
        await eventually(lambda: _counts(fleet, nodes=2, used=2), operator.story)

        proxy.blackhole()
        await fleet.client.delete(MODEL_POOLS, fleet.namespace, "ghost")
        for resource in (DEPLOYMENTS, SERVICES):
            await fleet.client.delete(resource, fleet.namespace, "ghost-card")  # as the garbage collector would
        await fleet.client.delete(PODS, fleet.namespace, "guest")
        await fleet.client.json_patch(NODES, None, "node-2", [{"op": "add", "path": "/metadata/annotations", "value": {"touched": "once more"}}])
        await fleet.client.delete(NODES, None, "node-2")
        await fleet.a_pool("late")
        _, now = await fleet.client.list(MODEL_POOLS)
        # the API server keeps recent history in memory as well: it has to forget too
        server.stop()
        compact(server, now)
        server.start()  # not in a thread: the kernel would kill it with that thread
        proxy.resume()
        proxy.cut()

        await eventually(lambda: "vanished without a word" in operator.text(), operator.story)
        # what the ghost made before the list that laid it is the garbage collector's; after it, it makes nothing
        for resource in (DEPLOYMENTS, SERVICES):
            with contextlib.suppress(NotFound):
                await fleet.client.delete(resource, fleet.namespace, "ghost-card")
        await fleet.a_pool("later")
        await eventually(lambda: fleet.settled("small", "late", "later"), operator.story)
        await eventually(lambda: _counts(fleet, nodes=1, used=0), operator.story)
        assert await fleet.deployments() == ["late-card", "later-card", "small-card"]
        assert not operator.ended(), operator.story()


async def test_a_stream_that_stays_open_and_says_nothing_fails_the_probe(fleet, proxy, start, tmp_path):
    await fleet.a_fleet()
    muted = proxy.hold(lambda seen: seen.verb == "watch" and seen.path.endswith("/modelpools"))
    operator = start(proxy.kubeconfig(tmp_path), PACE_GHOSTS="5")
    await operator.leads()
    await asyncio.wait_for(muted.arrived.wait(), 90)
    # planned once, so the mirror was complete: before that, what is not heard is waited for
    await eventually(lambda: fleet.settled("small"), operator.story)

    # our own status writes are news that the stream does not bring: a person's change is what we wait for here
    await fleet.a_pool("unheard")
    lists = proxy.counts["get", "/apis/modelfleet.dev/v1alpha1/modelpools"]

    async def unhealthy() -> bool:
        status, text = await operator.ask("/healthz")
        return status == 503 and "silent" in text

    await eventually(unhealthy, operator.story)
    assert proxy.counts["get", "/apis/modelfleet.dev/v1alpha1/modelpools"] <= lists + 3
    assert not operator.ended()


async def test_a_quiet_hour_is_healthy(fleet, proxy, start, tmp_path):
    await fleet.a_fleet()
    operator = start(proxy.kubeconfig(tmp_path), PACE_GHOSTS="1", PACE_RESYNC="0.5")
    await operator.leads()
    await eventually(lambda: fleet.settled("small"), operator.story)
    lists = proxy.counts["get", "/apis/modelfleet.dev/v1alpha1/modelpools"]
    await eventually(lambda: proxy.counts["get", "/apis/modelfleet.dev/v1alpha1/modelpools"] > lists + 8, operator.story)
    assert (await operator.ask("/healthz"))[0] == 200
    assert "vanished" not in operator.text()


async def _counts(fleet, *, nodes: int, used: int) -> bool:
    status = (await fleet.client.get(ACCELERATOR_CLASSES, None, "gpu")).get("status") or {}
    return status.get("nodes") == nodes and (status.get("devices") or {}).get("requested") == used
