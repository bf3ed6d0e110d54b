"""The mirror and its list-and-compare against a real API server; Kopf's part is played by hand, so that it may lose events."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.kube.waiting import children, eventually, pool
from tests.support.apiserver import ApiServer
from tests.support.builders import a_pool

from modelfleet.api.parse import InvalidObject
from modelfleet.core.render.labels import COMPONENT
from modelfleet.core.world import Defaults, Telemetry, World
from modelfleet.kube.changes import Changes
from modelfleet.kube.client import Client
from modelfleet.kube.ghosts import Ghosts
from modelfleet.kube.mirror import Mirror
from modelfleet.kube.resources import DEPLOYMENTS, MODEL_POOLS, NODES, OURS, PODS, SERVICES

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def deliver_all(client: Client, mirror: Mirror) -> None:
    for resource in OURS:
        for item in (await client.list(resource))[0]:
            mirror.hear(None, item)


def snapshot(mirror: Mirror) -> World:
    return mirror.snapshot(NOW, Telemetry(), Defaults())


async def test_synced_only_after_every_list_and_every_kind(client: Client, namespace: str) -> None:
    await client.create(MODEL_POOLS, namespace, pool(namespace))
    mirror = Mirror(Changes())
    ghosts = Ghosts(client, mirror, catch_up=0.1)
    informers = mirror.informers(client)
    assert not mirror.synced()
    tasks = [asyncio.create_task(i.run()) for i in informers]
    for informer in informers:
        await asyncio.wait_for(informer.synced.wait(), 90)
    assert mirror.fresh(60)
    await ghosts.sweep()
    # the pool was never delivered, so its kind is not complete
    assert not ghosts.complete
    assert not mirror.synced()
    await deliver_all(client, mirror)
    await ghosts.sweep()
    assert ghosts.complete
    assert mirror.synced()
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_the_first_sweep_waits_for_what_is_on_its_way(client: Client, namespace: str) -> None:
    await client.create(MODEL_POOLS, namespace, pool(namespace))
    mirror = Mirror(Changes())
    sweep = asyncio.create_task((ghosts := Ghosts(client, mirror, catch_up=60.0)).sweep())
    await asyncio.sleep(0.1)
    await deliver_all(client, mirror)
    await asyncio.wait_for(sweep, 90)
    assert ghosts.complete


async def test_ghosts_go_and_later_arrivals_stay(client: Client, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = Changes()
    mirror = Mirror(changes)
    ghosts = Ghosts(client, mirror)
    for name in ("kept", "ghost", "again"):
        await client.create(MODEL_POOLS, namespace, pool(namespace, name))
    await deliver_all(client, mirror)
    await ghosts.sweep()
    # a gap: one vanishes, one is made anew under the same name; nobody tells
    for name in ("ghost", "again"):
        await client.delete(MODEL_POOLS, namespace, name)
    await client.create(MODEL_POOLS, namespace, pool(namespace, "again"))
    changes.drain()
    listing = client.list

    async def list_while_one_arrives(*args: Any, **more: Any) -> Any:
        answer = await listing(*args, **more)
        if args[0] is MODEL_POOLS:
            mirror.hear("ADDED", await client.create(MODEL_POOLS, namespace, pool(namespace, "late")))
        return answer

    monkeypatch.setattr(client, "list", list_while_one_arrives)
    await ghosts.sweep()
    monkeypatch.undo()
    assert {p.metadata.name for p in snapshot(mirror).pools if p.metadata.namespace == namespace} == {"kept", "late"}
    assert {f"ModelPool:{namespace}/ghost", f"ModelPool:{namespace}/again"} <= changes.drain()
    # the stream, which still speaks, delivers the new one in time
    assert ghosts.healthy
    await deliver_all(client, mirror)
    await ghosts.sweep()
    assert ghosts.healthy


async def test_a_silent_stream_is_unhealthy_by_the_second_list_and_a_quiet_one_never(client: Client, namespace: str) -> None:
    mirror = Mirror(Changes())
    ghosts = Ghosts(client, mirror)
    made = await client.create(MODEL_POOLS, namespace, pool(namespace))
    await deliver_all(client, mirror)
    for _ in range(4):
        await ghosts.sweep()
        assert ghosts.healthy
    changed = await client.merge_patch(MODEL_POOLS, namespace, "small", {"spec": {"replicas": 3}})
    await ghosts.sweep()
    assert ghosts.healthy
    await ghosts.sweep()
    assert not ghosts.healthy
    mirror.hear("MODIFIED", changed)
    await ghosts.sweep()
    assert ghosts.healthy
    # one that changes between any two lists, but is always delivered in the end, is no silence
    for i in range(3):
        changed = await client.merge_patch(MODEL_POOLS, namespace, "small", {"spec": {"replicas": 4 + i}})
        await ghosts.sweep()
        assert ghosts.healthy
        mirror.hear("MODIFIED", changed)
    # a deletion between two lists is none either
    await client.merge_patch(MODEL_POOLS, namespace, "small", {"spec": {"replicas": 9}})
    await ghosts.sweep()
    await client.delete(MODEL_POOLS, namespace, "small")
    await ghosts.sweep()
    assert ghosts.healthy
    assert mirror.ours("ModelPool", f"{namespace}/small") is None
    assert made["metadata"]["uid"]


async def test_sweeps_go_on_while_the_api_server_is_away(client: Client, apiserver_with_crds: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelfleet.errors import Unavailable

    mirror = Mirror(Changes())
    ghosts = Ghosts(client, mirror, starting=0.01)
    await deliver_all(client, mirror)
    listing, failures = client.list, [Unavailable(0, "ConnectionFailed", "away")] * 2

    async def flaky(*args: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return await listing(*args, **more)

    monkeypatch.setattr(client, "list", flaky)
    task = asyncio.create_task(ghosts.run())
    await eventually(lambda: ghosts.complete, "complete after the failures")
    assert not failures
    task.cancel()


async def test_the_snapshot_holds_everything_in_order(client: Client, namespace: str) -> None:
    mirror = Mirror(Changes(), gateway_namespace=namespace)
    tasks = [asyncio.create_task(i.run()) for i in mirror.informers(client)]
    for name in ("b", "a"):
        owner = await client.create(MODEL_POOLS, namespace, pool(namespace, name))
        mirror.hear("ADDED", owner)
        deployment, service = children(owner)
        await client.create(DEPLOYMENTS, namespace, deployment)
        await client.create(SERVICES, namespace, service)
        await client.create(NODES, None, {"metadata": {"name": f"{namespace}-{name}"}})
        labels = {COMPONENT: "gateway", "app.kubernetes.io/part-of": "modelfleet"}
        spec = {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "250m"}}}], "serviceAccountName": "default"}
        await client.create(PODS, namespace, {"metadata": {"name": f"gw-{name}", "labels": labels}, "spec": spec})
    mirror.hear("ADDED", {**pool(namespace, "bad"), "metadata": {"name": "bad", "namespace": namespace, "uid": "u", "resourceVersion": "1"}, "spec": {}})
    mirror.hear("ADDED", {"kind": "Nonsense"})

    def complete() -> bool:
        world = snapshot(mirror)
        return len([n for n in world.nodes if n.name.startswith(namespace)]) == 2 and len(world.gateways) == 2 and len(mirror.children()) >= 4

    await eventually(complete, "everything is seen")
    world = snapshot(mirror)
    assert [p.metadata.name for p in world.pools if p.metadata.namespace == namespace] == ["a", "b"]
    assert [w.pool for w in world.workloads if w.namespace == namespace] == ["a", "b"]
    assert [g.name for g in world.gateways] == ["gw-a", "gw-b"]
    assert [p.requests for p in world.pods if p.namespace == namespace] == [{"cpu": 250}, {"cpu": 250}]
    assert [n.name for n in world.nodes] == sorted(n.name for n in world.nodes)
    (invalid,) = (i for i in world.invalid if i.namespace == namespace)
    assert isinstance(invalid, InvalidObject)
    assert "spec.model" in " ".join(invalid.errors)
    mirror.hear("DELETED", pool(namespace, "a"))
    assert [p.metadata.name for p in snapshot(mirror).pools if p.metadata.namespace == namespace] == ["b"]
    for task in tasks:
        task.cancel()
    for name in ("a", "b"):
        await client.delete(NODES, None, f"{namespace}-{name}")
        await client.delete(PODS, namespace, f"gw-{name}")


def a_raw_pool(name: str, version: int, **spec: Any) -> dict[str, Any]:
    raw = a_pool(name).wants("h100").with_spec(**spec).raw()
    return {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(version)}}


def test_a_snapshot_has_the_very_parts_of_the_last_one_but_for_what_changed() -> None:
    mirror = Mirror(Changes())
    for version, name in enumerate(("b", "a")):
        mirror.hear("ADDED", a_raw_pool(name, version))
    first, again = snapshot(mirror), snapshot(mirror)
    assert [p.key for p in first.pools] == ["apps/a", "apps/b"]
    assert all(getattr(first, part) is getattr(again, part) for part in ("pools", "policies", "teams", "classes", "nodes", "pods", "workloads", "gateways"))

    mirror.hear("MODIFIED", a_raw_pool("a", 7, replicas=3))
    later = snapshot(mirror)
    assert [p.spec.replicas for p in later.pools] == [3, 1]
    assert later.pools[1] is first.pools[1]
    assert later.classes is first.classes

    mirror.hear("MODIFIED", {**a_raw_pool("a", 8), "spec": {"no": "spec"}})
    assert ([p.key for p in snapshot(mirror).pools], [i.key for i in snapshot(mirror).invalid]) == (["apps/b"], ["apps/a"])
    assert mirror.forget("ModelPool", "apps/b", "uid-b")
    mirror.hear("DELETED", a_raw_pool("a", 9))
    assert (snapshot(mirror).pools, snapshot(mirror).invalid) == ((), ())
