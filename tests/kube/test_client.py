"""The client against a real API server: chunks, watches, ownership, preconditions, errors, the write guard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kube.waiting import compact, config_map, eventually, pool
from tests.support.apiserver import ApiServer
from tests.support.proxy import ApiProxy, TcpProxy, plain_kubeconfig

from modelfleet.errors import Conflict, Forbidden, Gone, Invalid, NotFound, Retry, Stalled, Unavailable
from modelfleet.kube.client import Client
from modelfleet.kube.resources import MODEL_POOLS, SECRETS, Resource

MAPS = Resource("", "v1", "configmaps", "ConfigMap")


async def test_lists_in_chunks_and_watches_from_where_the_list_ended(client: Client, namespace: str, apiserver_with_crds: ApiServer) -> None:
    for i in range(7):
        await client.create(MAPS, namespace, config_map(f"m{i}"))
    items, version = await client.list(MAPS, namespace, limit=3)
    assert [i["metadata"]["name"] for i in items] == [f"m{i}" for i in range(7)]
    assert {(i["apiVersion"], i["kind"]) for i in items} == {("v1", "ConfigMap")}

    def lists() -> int:
        return len([e for e in apiserver_with_crds.audit_events() if e["verb"] == "list" and f"namespaces/{namespace}/configmaps" in e["requestURI"]])

    await eventually(lambda: lists() >= 3, "three lists in the log, which may be later than their answers")
    assert lists() == 3

    await client.merge_patch(MAPS, namespace, "m0", {"data": {"a": "b"}})
    await client.delete(MAPS, namespace, "m1")
    heard = []
    async for kind, raw in client.watch(MAPS, version, namespace, seconds=5):
        heard.append((kind, raw["metadata"].get("name")))
    assert [h for h in heard if h[0] != "BOOKMARK"] == [("MODIFIED", "m0"), ("DELETED", "m1")]


async def test_selectors_and_metadata_only(client: Client, namespace: str) -> None:
    await client.create(MAPS, namespace, config_map("a", key="value") | {"metadata": {"name": "a", "labels": {"x": "y"}}})
    await client.create(MAPS, namespace, config_map("b"))
    (only,), _ = await client.list(MAPS, namespace, label_selector="x=y", metadata_only=True)
    assert only["metadata"]["name"] == "a"
    assert "data" not in only
    (named,), _ = await client.list(MAPS, namespace, field_selector="metadata.name=b")
    assert named["metadata"]["name"] == "b"


async def test_a_compacted_history_is_gone(make_apiserver: Callable[..., ApiServer]) -> None:
    server = make_apiserver(flags=("--watch-cache=false",))
    client = await Client.connect("test", server.kubeconfig)
    await client.create(MAPS, "default", config_map("a"))
    _, version = await client.list(MAPS, "default")
    for i in range(3):
        await client.merge_patch(MAPS, "default", "a", {"data": {"i": str(i)}})
    _, newest = await client.list(MAPS, "default")
    compact(server, newest)
    with pytest.raises(Gone):
        async for _ in client.watch(MAPS, version, "default", seconds=5):
            pass
    await client.close()


async def test_apply_owns_what_it_says_and_gives_up_what_it_no_longer_says(client: Client, namespace: str) -> None:
    await client.apply(MAPS, namespace, "m", {"data": {"a": "1", "b": "1"}}, "one")
    await client.apply(MAPS, namespace, "m", {"data": {"b": "2", "c": "2"}}, "two")
    with pytest.raises(Conflict):
        await client.apply(MAPS, namespace, "m", {"data": {"b": "3"}}, "three", force=False)
    after = await client.apply(MAPS, namespace, "m", {"data": {}}, "one")
    assert after["data"] == {"b": "2", "c": "2"}


async def test_apply_to_status_touches_nothing_else(client: Client, namespace: str) -> None:
    made = await client.create(MODEL_POOLS, namespace, pool(namespace))
    after = await client.apply(MODEL_POOLS, namespace, "small", {"spec": {"replicas": 9}, "status": {"replicas": 3}}, "modelfleet-status", subresource="status")
    assert (after["status"]["replicas"], after["spec"]) == (3, made["spec"])


async def test_json_patch_tests_before_it_removes(client: Client, namespace: str) -> None:
    await client.create(MAPS, namespace, config_map("m", a="1"))
    with pytest.raises(Invalid):
        await client.json_patch(MAPS, namespace, "m", [{"op": "test", "path": "/data/a", "value": "2"}, {"op": "remove", "path": "/data/a"}])
    assert (await client.get(MAPS, namespace, "m"))["data"] == {"a": "1"}


async def test_errors_are_typed_and_named(client: Client, namespace: str, apiserver_with_crds: ApiServer, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"GET /api/v1/namespaces/{namespace}/configmaps/none"):
        await client.get(MAPS, namespace, "none")
    made = await client.create(MAPS, namespace, config_map("m"))
    with pytest.raises(Conflict):
        await client.create(MAPS, namespace, config_map("m"))
    await client.replace(MAPS, namespace, "m", made | {"data": {"x": "y"}})
    with pytest.raises(Conflict):
        await client.replace(MAPS, namespace, "m", made)
    with pytest.raises(Conflict):
        await client.delete(MAPS, namespace, "m", uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(Invalid, match=r"spec\.model"):
        await client.create(
            MODEL_POOLS, namespace, {"apiVersion": "modelfleet.dev/v1alpha1", "kind": "ModelPool", "metadata": {"name": "x"}, "spec": {"flavors": []}}
        )
    stranger = await Client.connect("test", plain_kubeconfig(tmp_path / "k", apiserver_with_crds.url, apiserver_with_crds.ca_file, "no-such-token"))
    with pytest.raises(Forbidden):
        await stranger.list(SECRETS)
    await stranger.close()
    with pytest.raises(Stalled, match="KUBECONFIG"):
        await Client.connect("test", tmp_path / "missing")


async def test_a_rotated_token_is_used_without_a_restart(apiserver_with_crds: ApiServer, tmp_path: Path) -> None:
    fresh = await Client.connect("test", plain_kubeconfig(tmp_path / "k", apiserver_with_crds.url, apiserver_with_crds.ca_file, "stale"))
    with pytest.raises(Forbidden):
        await fresh.list(MAPS, "default")
    fresh._wire._configuration.refresh_api_key_hook = lambda c: c.api_key.update(BearerToken=f"Bearer {apiserver_with_crds.token}")
    await fresh.list(MAPS, "default")
    assert (await fresh.credentials()).token == apiserver_with_crds.token
    assert apiserver_with_crds.token not in repr(await fresh.credentials())
    await fresh.close()


async def test_reads_and_applies_are_repeated_and_creations_are_not(apiserver_with_crds: ApiServer, namespace: str, tmp_path: Path) -> None:
    async with ApiProxy(apiserver_with_crds) as proxy:
        client = await Client.connect("test", proxy.kubeconfig(tmp_path))
        for status in (0, 503, 429):
            proxy.fail(lambda r: r.verb in ("apply", "get"), status)
            await client.apply(MAPS, namespace, "m", {"data": {"s": str(status)}}, "one")
            proxy.fail(lambda r: r.verb == "get", status)
            assert (await client.get(MAPS, namespace, "m"))["data"] == {"s": str(status)}
        assert client.writes == {("apply", "ConfigMap"): 6}
        proxy.fail(lambda r: r.verb == "create", 503, times=2)
        with pytest.raises(Unavailable):
            await client.create(MAPS, namespace, config_map("n"))
        assert sum(r.verb == "create" for r in proxy.seen) == 1
        assert {r.agent.split("/")[0] for r in proxy.seen} == {"modelfleet-test"}
        await client.close()


async def test_no_answer_is_unavailable_in_time(apiserver_with_crds: ApiServer, tmp_path: Path) -> None:
    async with TcpProxy(apiserver_with_crds.url) as proxy:
        client = await Client.connect("test", proxy.kubeconfig(tmp_path, apiserver_with_crds), request_timeout=5.0)
        assert (await client.server_version()).startswith("v1.")
        proxy.blackhole()
        with pytest.raises(Unavailable) as caught:
            await client.create(MAPS, "default", config_map("x"))
        assert (caught.value.status, caught.value.reason) == (0, "Timeout")
        proxy.refuse()
        with pytest.raises(Unavailable):
            await client.server_version()
        await client.close()


async def test_the_guard_is_asked_when_the_connection_is_there(apiserver_with_crds: ApiServer, namespace: str, tmp_path: Path) -> None:
    """A write that waited for its connection while the Lease ran out is not sent."""
    allowed = [True]

    def guard() -> None:
        if not allowed[0]:
            raise Retry("LeaseNotHeld", "no")

    async with TcpProxy(apiserver_with_crds.url) as proxy:
        client = await Client.connect("test", proxy.kubeconfig(tmp_path, apiserver_with_crds))
        client.before_write = guard
        proxy.pause()
        write = asyncio.create_task(client.apply(MAPS, namespace, "late", {"data": {}}, "one"))
        while not proxy.connections:
            await asyncio.sleep(0.01)
        allowed[0] = False
        proxy.resume()
        with pytest.raises(Retry):
            await write
        with pytest.raises(Retry):
            await client.delete(MAPS, namespace, "late")
        with pytest.raises(NotFound):
            await client.get(MAPS, namespace, "late")
        assert not client.writes
        await client.close()
