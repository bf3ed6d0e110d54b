"""SIGKILL around every write of a reconcile: whoever comes next finishes the work, with the same objects and none twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from tests.operator.running import Fleet, OperatorProcess, eventually, is_work, told
from tests.support.proxy import ApiProxy, Seen

from modelfleet.kube.client import Object
from modelfleet.kube.resources import ACCELERATOR_CLASSES, DEPLOYMENTS, EVENTS, MODEL_POOLS, NODES, SERVICES

MOST_WRITES = 25
FEWEST_WRITES = 5  # label, Deployment, Service, two statuses


async def test_killed_after_every_write(fleet, proxy, start, tmp_path):
    """Each process makes one write and dies before it hears the answer: as many lives as the reconcile has writes."""
    await _die_until_done(fleet, proxy, start, tmp_path, when="after")


async def test_killed_before_every_write(fleet, proxy, start, tmp_path):
    """Each process makes one write and dies with the second on its lips."""
    await _die_until_done(fleet, proxy, start, tmp_path, when="before")


class Executioner:
    """Lets one write of a life pass, and kills before the second or after the first. Writes are sent many at once; this makes them one by one."""

    def __init__(self, operator: OperatorProcess, when: Literal["before", "after"]) -> None:
        self.operator, self.when = operator, when
        self.passed: Seen | None = None

    def before(self, seen: Seen) -> bool:
        """True: hold it for ever."""
        if not is_work(seen):
            return False
        if self.passed is None:
            self.passed = seen
            return False
        if self.when == "before":
            self.operator.kill()
        return True

    def after(self, seen: Seen) -> bool:
        if is_work(seen) and self.when == "after":
            self.operator.kill()
            return True
        return False


async def _die_until_done(fleet: Fleet, proxy: ApiProxy, start: Callable[..., OperatorProcess], tmp_path: Path, *, when: Literal["before", "after"]) -> None:
    await fleet.a_fleet()
    kubeconfig = proxy.kubeconfig(tmp_path)
    wrote: list[Seen] = []
    while True:
        proxy.reset()
        await fleet.no_lease()
        operator = start(kubeconfig, PACE_RESYNC="0.2")
        executioner = Executioner(operator, when)
        proxy.hold(executioner.before)
        proxy.hold(executioner.after, "after")

        async def over(operator: OperatorProcess = operator) -> bool:
            return operator.ended() or await operator.metric("modelfleet_operator_cycles_total") >= 4

        await eventually(over, operator.story)
        wrote += [executioner.passed] if executioner.passed else []
        if not operator.ended():
            break
        assert len(wrote) <= MOST_WRITES, told(wrote)

    assert len(wrote) >= FEWEST_WRITES, told(wrote)
    assert len({(w.path, w.body) for w in wrote}) == len(wrote), told(wrote)  # nobody repeated what a predecessor had done
    assert await fleet.settled("small")
    killed = await _objects(fleet)

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

    try:
        await eventually(same, "the same objects")
    except AssertionError:
        assert await _objects(fleet) == killed


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
