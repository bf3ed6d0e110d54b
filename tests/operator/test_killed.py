"""SIGKILL around every write of a reconcile: whoever comes next finishes the work, with the same objects and none twice."""

from __future__ import annotations

from typing import Any

import pytest
from modelfleet.kube.client import Object
from modelfleet.kube.resources import ACCELERATOR_CLASSES, DEPLOYMENTS, EVENTS, MODEL_POOLS, NODES, SERVICES
from tests.operator.running import Fleet, eventually, is_work, told
from tests.support.proxy import Seen

MOST_WRITES = 25


async def test_killed_after_every_write(fleet, proxy, start, tmp_path):
    """Each process makes one write and dies before it hears the answer: as many lives as the reconcile has writes."""
    await _die_until_done(fleet, proxy, start, tmp_path, fatal=1, when="after")


async def test_killed_before_every_write(fleet, proxy, start, tmp_path):
    """Each process makes one write and dies with the second on its lips."""
    await _die_until_done(fleet, proxy, start, tmp_path, fatal=2, when="before")


async def _die_until_done(fleet: Fleet, proxy: Any, start: Any, tmp_path: Any, *, fatal: int, when: Any) -> None:
    await fleet.a_fleet()
    kubeconfig = proxy.kubeconfig(tmp_path)
    lives = 0
    while True:
        proxy.reset()
        await fleet.no_lease()
        operator = start(kubeconfig, PACE_RESYNC="0.2")
        lives += 1
        writes = 0

        def strikes(seen: Seen, operator: Any = operator) -> bool:
            nonlocal writes
            writes += is_work(seen)
            if is_work(seen) and writes >= fatal:
                operator.kill()
                return True
            return False

        hold = proxy.hold(strikes, when)

        async def over(operator: Any = operator) -> bool:
            return operator.ended() or await operator.metric("modelfleet_operator_cycles_total") >= 4

        await eventually(over, operator.story)
        if not operator.ended():
            break
        hold.release()
        assert lives <= MOST_WRITES, told(proxy.written())

    killed = await _objects(fleet)
    assert lives > 4, "the reconcile was shorter than it can be"
    assert await fleet.settled("small")

    # the reference: the same manifests, one life
    operator.kill()
    await operator.ends()
    proxy.reset()
    await fleet.clear()
    await fleet.a_fleet()
    reference = start(kubeconfig)
    await reference.leads()
    await eventually(lambda: fleet.settled("small"), reference.story)

    async def same() -> bool:
        return await _objects(fleet) == killed

    with_difference = lambda: f"the same objects; killed: {killed}"  # noqa: E731
    await eventually(same, with_difference)


async def _objects(fleet: Fleet) -> dict[str, Any]:
    """What a reconcile leaves, without names and times that differ between two runs; events by what they say, counted."""
    found: dict[str, Any] = {}
    for resource in (DEPLOYMENTS, SERVICES, MODEL_POOLS, ACCELERATOR_CLASSES):
        items, _ = await fleet.client.list(resource, fleet.namespace if resource.namespaced else None)
        for item in items:
            if item["metadata"]["name"] != "kubernetes":
                found[f"{resource.kind}/{item['metadata']['name']}"] = _essence(item)
    node = await fleet.client.get(NODES, None, "node-1")
    found["Node"] = node["metadata"]["labels"]
    return found


def _essence(item: Object) -> Object:
    spec = {k: v for k, v in (item.get("spec") or {}).items() if k not in ("clusterIP", "clusterIPs")}
    status = item.get("status") or {}
    conditions = [{k: v for k, v in c.items() if k != "lastTransitionTime"} for c in status.get("conditions") or []]
    meta = {k: item["metadata"].get(k) for k in ("labels", "annotations", "generation")}
    return {"meta": meta, "spec": spec, "conditions": conditions}


@pytest.mark.usefixtures("fleet")
async def test_events_are_not_told_twice_by_two_lives(fleet, server, start):
    await fleet.a_fleet()
    for _ in range(2):
        operator = start(server.kubeconfig)
        await operator.leads()
        await eventually(lambda: fleet.settled("small"), operator.story)
        operator.kill()
        await operator.ends()
        await fleet.no_lease()
    events, _ = await fleet.client.list(EVENTS, fleet.namespace)
    said = [(e["involvedObject"]["name"], e["reason"], e["message"]) for e in events]
    assert len(said) == len(set(said)), said
