"""The HTTP proxy of the tests does what they rely on: counts, stops, holds, refuses, and passes everything else."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.kube.waiting import config_map
from tests.support.apiserver import ApiServer
from tests.support.proxy import ApiProxy

from modelfleet.kube.client import Client
from modelfleet.kube.resources import Resource

MAPS = Resource("", "v1", "configmaps", "ConfigMap")


async def test_counts_stops_and_holds(apiserver_with_crds: ApiServer, client: Client, namespace: str, tmp_path: Path) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    async with ApiProxy(apiserver_with_crds) as proxy:
        through = await Client.connect("test", proxy.kubeconfig(tmp_path))
        found: list[int] = []

        async def look(_: object) -> None:
            found.append(len((await client.list(MAPS, namespace))[0]))

        proxy.at_write(1, look, when="before")
        proxy.at_write(2, look, when="after")
        await through.create(MAPS, namespace, config_map("one"))
        await through.create(MAPS, namespace, config_map("two"))
        assert found == [0, 2]
        assert proxy.counts == {("create", path): 2}

        hold = proxy.hold(lambda r: r.verb == "update")
        made = await through.get(MAPS, namespace, "one")
        held = asyncio.create_task(through.replace(MAPS, namespace, "one", made | {"data": {"a": "b"}}))
        await asyncio.wait_for(hold.arrived.wait(), 10)
        assert "data" not in await client.get(MAPS, namespace, "one")
        hold.release()
        assert (await held)["data"] == {"a": "b"}
        assert [r.verb for r in proxy.written()] == ["create", "create", "update"]

        _, version = await through.list(MAPS, namespace)
        await client.delete(MAPS, namespace, "one")
        heard = [kind async for kind, _ in through.watch(MAPS, version, namespace, seconds=1)]
        assert heard[0] == "DELETED"
        proxy.reset()
        assert not proxy.seen
        await through.close()
