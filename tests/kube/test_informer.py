"""The informer against a real API server whose network is taken away: nothing stays that a list lacks, and silence is noticed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.kube.waiting import compact, config_map, eventually
from tests.support.apiserver import ApiServer
from tests.support.proxy import TcpProxy

from modelfleet.kube.client import Client
from modelfleet.kube.informer import Informer
from modelfleet.kube.resources import SECRETS, Resource

MAPS = Resource("", "v1", "configmaps", "ConfigMap")


def data_of(raw: dict[str, Any]) -> dict[str, str] | None:
    return None if (raw.get("data") or {}).get("hidden") else raw.get("data") or {}


@asynccontextmanager
async def running(client: Client, namespace: str, **settings: Any) -> AsyncIterator[tuple[Informer[dict[str, str]], list[tuple[str, Any, Any]]]]:
    changes: list[tuple[str, Any, Any]] = []
    informer = Informer(client, MAPS, data_of, lambda *change: changes.append(change), namespace=namespace, **settings)
    task = asyncio.create_task(informer.run())
    try:
        await asyncio.wait_for(informer.synced.wait(), 90)
        yield informer, changes
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_follows_what_happens_and_tells_each_difference_once(client: Client, namespace: str) -> None:
    await client.create(MAPS, namespace, config_map("old", a="1"))
    async with running(client, namespace) as (informer, changes):
        key = f"{namespace}/old"
        assert informer.objects == {key: {"a": "1"}}
        assert informer.fresh(60)
        await client.merge_patch(MAPS, namespace, "old", {"metadata": {"labels": {"noise": "1"}}})
        await client.merge_patch(MAPS, namespace, "old", {"data": {"a": "2"}})
        await client.merge_patch(MAPS, namespace, "old", {"data": {"hidden": "yes"}})
        await client.merge_patch(MAPS, namespace, "old", {"data": {"hidden": None}})
        await client.delete(MAPS, namespace, "old")
        await eventually(lambda: len(changes) == 5, f"five changes: {changes}")
        assert changes == [
            (key, None, {"a": "1"}),
            (key, {"a": "1"}, {"a": "2"}),
            (key, {"a": "2"}, None),
            (key, None, {"a": "2"}),
            (key, {"a": "2"}, None),
        ]
        assert informer.lists == 1


async def test_a_quiet_watch_ends_and_goes_on_and_is_fresh(client: Client, namespace: str) -> None:
    """Nothing of the kind changes, so the server sends no bookmark: its ending and accepting of watches is the sign of life."""
    async with running(client, namespace, watch_seconds=1, silence=5) as (informer, changes):
        await eventually(lambda: informer.watches >= 4, "the watch is reopened")
        await client.create(MAPS, namespace, config_map("late"))
        await eventually(lambda: changes, "the later watch hears")
        assert informer.lists == 1


async def test_an_accepted_watch_is_a_sign_of_life(client: Client, namespace: str) -> None:
    ticks = itertools.count(1)
    async with running(client, namespace, watch_seconds=60, clock=lambda: next(ticks)) as (informer, _):
        # the list was the first sign, the open watch is the second
        await eventually(lambda: informer.last_heard >= 2, "the open watch is heard")
        assert (informer.lists, informer.watches) == (1, 1)


async def test_bookmarks_are_counted(client: Client, namespace: str) -> None:
    async with running(client, namespace, watch_seconds=5) as (informer, changes):
        await client.create(MAPS, namespace, config_map("news"))
        await eventually(lambda: informer.bookmarks, "a bookmark before the watch ends", 120)
        assert len(changes) == 1


async def test_what_vanished_in_a_gap_that_ends_in_410_is_gone(make_apiserver: Callable[..., ApiServer], tmp_path: Path) -> None:
    server = make_apiserver(flags=("--watch-cache=false",))
    direct = await Client.connect("test", server.kubeconfig)
    for name in ("kept", "ghost"):
        await direct.create(MAPS, "default", config_map(name))
    async with TcpProxy(server.url) as proxy:
        client = await Client.connect("test", proxy.kubeconfig(tmp_path, server))
        async with running(client, "default") as (informer, changes):
            assert set(informer.objects) == {"default/kept", "default/ghost"}
            proxy.refuse()
            await direct.delete(MAPS, "default", "ghost")
            await direct.create(MAPS, "default", config_map("new"))
            _, newest = await direct.list(MAPS, "default")
            compact(server, newest)
            await proxy.listen()
            await eventually(lambda: "default/new" in informer.objects, "listed again", 120)
            assert set(informer.objects) == {"default/kept", "default/new"}
            assert informer.lists == 2
            assert ("default/ghost", {}, None) in changes
        await client.close()
    await direct.close()


async def test_a_silent_watch_is_reopened_and_misses_nothing(apiserver_with_crds: ApiServer, client: Client, namespace: str, tmp_path: Path) -> None:
    async with TcpProxy(apiserver_with_crds.url) as proxy:
        behind = await Client.connect("test", proxy.kubeconfig(tmp_path, apiserver_with_crds))
        async with running(behind, namespace, silence=1.0) as (informer, _):
            await eventually(lambda: informer.watches >= 1, "watching")
            proxy.blackhole()
            await client.create(MAPS, namespace, config_map("unheard"))
            before = informer.watches
            await eventually(lambda: informer.watches > before, "silence is noticed")
            proxy.cut()
            proxy.resume()
            await eventually(lambda: f"{namespace}/unheard" in informer.objects, "what was swallowed is heard again", 120)
        await behind.close()


async def test_an_object_that_cannot_be_read_does_not_blind_us(client: Client, namespace: str) -> None:
    def picky(raw: dict[str, Any]) -> str:
        return str(raw["data"]["must"])

    informer = Informer(client, MAPS, picky, lambda *_: None, namespace=namespace)
    await client.create(MAPS, namespace, config_map("bad"))
    await client.create(MAPS, namespace, config_map("good", must="1"))
    task = asyncio.create_task(informer.run())
    await eventually(lambda: informer.objects == {f"{namespace}/good": "1"}, "the readable one is there")
    task.cancel()


async def test_watches_one_secret_by_name(client: Client, namespace: str) -> None:
    for name in ("mine", "other"):
        await client.create(SECRETS, namespace, {"metadata": {"name": name}, "stringData": {"k": name}})
    informer = Informer(client, SECRETS, lambda raw: raw["data"]["k"], lambda *_: None, namespace=namespace, field_selector="metadata.name=mine")
    task = asyncio.create_task(informer.run())
    await eventually(informer.synced.is_set, "synced")
    await client.merge_patch(SECRETS, namespace, "other", {"stringData": {"k": "x"}})
    await client.merge_patch(SECRETS, namespace, "mine", {"stringData": {"k": "y"}})
    await eventually(lambda: informer.objects == {f"{namespace}/mine": "eQ=="}, "rotated")
    task.cancel()


async def test_an_optional_kind_that_is_not_there_has_no_objects_until_it_comes(client: Client, namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    """And keeps what was seen if the API server does not know it for a moment; another kind is waited for."""
    group = f"{namespace}.example"
    gadgets = Resource(group, "v1", "gadgets", "Gadget")
    names = {"plural": "gadgets", "singular": "gadget", "kind": "Gadget"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    definitions = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
    needed, optional = (Informer(client, gadgets, lambda raw: raw["metadata"]["name"], lambda *_: None, optional=given) for given in (False, True))
    tasks = [asyncio.create_task(informer.run()) for informer in (needed, optional)]
    try:
        await asyncio.wait_for(optional.synced.wait(), 90)
        assert (dict(optional.objects), optional.lists, needed.synced.is_set()) == ({}, 0, False)
        await eventually(lambda: sum("cannot list gadgets" in m for m in caplog.messages) >= 2, "two tries")
        spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
        await client.create(definitions, None, {"metadata": {"name": f"gadgets.{group}"}, "spec": spec})
        await eventually(lambda: needed.synced.is_set() and optional.lists == 1, "a list", 120)
        await client.create(gadgets, namespace, {"apiVersion": f"{group}/v1", "kind": "Gadget", "metadata": {"name": "one"}})
        await eventually(lambda: f"{namespace}/one" in optional.objects, "the gadget")
        assert sum("knows no gadgets" in m for m in caplog.messages) == 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
