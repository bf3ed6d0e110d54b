"""A gateway's own entry in a policy's status, on a real API server; and the Secrets it watches singly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from tests.support.apiserver import ApiServer
from tests.support.envoy import a_policy, a_pool, remote, until

from modelfleet.api.v1alpha1 import RoutingPolicy
from modelfleet.core.routing.ir import SecretRef
from modelfleet.kube.client import Client
from modelfleet.kube.resources import NAMESPACES, ROUTING_POLICIES, SECRETS
from modelfleet.router.report import Reporter, Running
from modelfleet.router.secrets import SecretWatches, missing_secrets, wanted_secrets


class Policies:
    """One policy, as the watch would have it after ``look``."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.client, self.namespace = client, namespace
        self.seen: dict[str, RoutingPolicy] = {}

    @property
    def key(self) -> str:
        return f"{self.namespace}/p"

    async def create(self) -> None:
        spec = {"entrypoints": [{"name": "auto"}], "candidates": [{"name": "a", "poolRef": {"name": "a"}}], "default": {"chain": ["a"]}}
        await self.client.create(
            ROUTING_POLICIES, self.namespace, {"apiVersion": "modelfleet.dev/v1alpha1", "kind": "RoutingPolicy", "metadata": {"name": "p"}, "spec": spec}
        )

    async def raw(self) -> dict[str, Any]:
        return await self.client.get(ROUTING_POLICIES, self.namespace, "p")

    async def look(self) -> None:
        self.seen = {self.key: RoutingPolicy.model_validate(await self.raw())}

    async def entries(self) -> dict[str, dict[str, Any]]:
        return {entry["name"]: entry for entry in (await self.raw()).get("status", {}).get("gateways", [])}

    def reporter(self, pod: str = "gw-0") -> Reporter:
        return Reporter(self.client, pod, lambda: self.seen)


@pytest.fixture
async def policies(apiserver_with_crds: ApiServer) -> AsyncIterator[Policies]:
    client = await Client.connect("test", apiserver_with_crds.kubeconfig)
    namespace = f"report-{uuid4().hex[:8]}"
    await client.create(NAMESPACES, None, {"metadata": {"name": namespace}})
    made = Policies(client, namespace)
    await made.create()
    yield made
    await client.close()


async def told(reporter: Reporter, key: str, running: Running) -> bool:
    reporter.tell({key: running})
    return await reporter.write_changes()


async def test_an_entry_is_written_once_per_change_beside_those_of_other_gateways(policies: Policies) -> None:
    mine, other = policies.reporter(), policies.reporter("gw-1")
    await policies.look()
    assert await told(mine, policies.key, Running(1, "abc", None, ("secret/k",)))
    assert await told(other, policies.key, Running(0, "", "route: no"))
    entries = await policies.entries()
    assert entries["gw-0"].pop("acknowledgedAt")
    assert entries == {
        "gw-0": {"name": "gw-0", "generation": 1, "version": "abc", "missing": ["secret/k"]},
        "gw-1": {"name": "gw-1", "generation": 0, "version": "", "missing": [], "rejected": "route: no"},
    }
    before = policies.client.writes.total()
    for _ in range(3):
        assert await told(mine, policies.key, Running(1, "abc", None, ("secret/k",)))
        await policies.look()
    assert policies.client.writes.total() == before
    assert await told(other, policies.key, Running(1, "abc"))
    assert "rejected" not in (await policies.entries())["gw-1"]
    assert policies.client.writes.total() == before + 1


async def test_a_router_that_restarts_adopts_its_entry_and_one_that_was_removed_is_written_again(policies: Policies) -> None:
    assert await told(policies.reporter(), policies.key, Running(1, "abc"))
    await policies.look()
    first, writes = await policies.entries(), policies.client.writes.total()
    again = policies.reporter()
    assert await told(again, policies.key, Running(1, "abc"))
    assert policies.client.writes.total() == writes
    await policies.client.json_patch(ROUTING_POLICIES, policies.namespace, "p", [{"op": "remove", "path": "/status/gateways/0"}], subresource="status")
    assert await policies.entries() == {}
    assert await told(again, policies.key, Running(1, "abc"))
    assert await policies.entries() == {}, "the watch has not shown it yet"
    await policies.look()
    assert await told(again, policies.key, Running(1, "abc"))
    assert set(await policies.entries()) == set(first)


async def test_an_entry_that_does_not_stay_is_written_ever_more_seldom(policies: Policies) -> None:
    reporter = Reporter(policies.client, "gw-0", lambda: policies.seen, pause=0.02)
    writes, running = 0, Running(1, "abc")
    await policies.look()
    reporter.tell({policies.key: running})
    began, work = asyncio.get_running_loop().time(), asyncio.create_task(reporter.run())
    try:
        while writes < 6:
            if await policies.entries():
                writes += 1
                await policies.client.json_patch(
                    ROUTING_POLICIES, policies.namespace, "p", [{"op": "remove", "path": "/status/gateways/0"}], subresource="status"
                )
            await policies.look()
            reporter.tell({policies.key: running})
            await asyncio.sleep(0.005)
        assert asyncio.get_running_loop().time() - began >= 0.6, "the pauses add up: 0.02 s after the first, then 0.04, 0.08, 0.16, 0.32"
        reporter.tell({policies.key: Running(2, "def")})
        async with asyncio.timeout(90):
            while (await policies.entries()).get("gw-0", {}).get("generation") != 2:
                await asyncio.sleep(0.02)
    finally:
        work.cancel()


async def test_a_policy_made_anew_gets_its_entry_and_a_deleted_one_is_no_error(policies: Policies) -> None:
    reporter = policies.reporter()
    await policies.look()
    assert await told(reporter, policies.key, Running(1, "abc"))
    await policies.client.delete(ROUTING_POLICIES, policies.namespace, "p")
    assert await told(reporter, policies.key, Running(1, "def"))
    await policies.create()
    await policies.look()
    assert await told(reporter, policies.key, Running(1, "def"))
    assert (await policies.entries())["gw-0"]["version"] == "def"


async def test_what_cannot_be_written_now_is_written_when_the_api_server_is_back(make_apiserver: Callable[..., ApiServer]) -> None:
    server = make_apiserver()
    server.apply_crds()
    client = await Client.connect("test", server.kubeconfig, request_timeout=15.0)
    try:
        await client.create(NAMESPACES, None, {"metadata": {"name": "shop"}})
        policies = Policies(client, "shop")
        await policies.create()
        await policies.look()
        server.stop()
        reporter = Reporter(client, "gw-0", lambda: policies.seen, pause=0.05)
        assert not await told(reporter, policies.key, Running(1, "abc"))
        task = asyncio.create_task(reporter.run())
        await asyncio.to_thread(server.start)
        for _ in range(1800):
            if await policies.entries():
                break
            await asyncio.sleep(0.05)
        assert (await policies.entries())["gw-0"]["version"] == "abc"
        assert not task.done()
        task.cancel()
    finally:
        await client.close()


def test_wanted_and_missing_secrets_of_a_policy() -> None:
    pools = {p.key: p for p in (a_pool("a"), a_pool("b", remote("far", "https://x.example", secret=("k", "token")), remote("free", "https://y.example")))}
    ref = SecretRef("shop", "k", "token")
    wanted = wanted_secrets([a_policy("p", "a", "b", "gone"), a_policy("q", "a", entrypoints=["q"])], pools)
    assert wanted == {"shop/p": (ref,), "shop/q": ()}
    assert missing_secrets(wanted, []) == {"shop/p": ("secret/k",), "shop/q": ()}
    assert missing_secrets(wanted, [ref]) == {"shop/p": (), "shop/q": ()}


async def test_each_secret_is_watched_singly_and_its_value_follows(policies: Policies) -> None:
    client, namespace, news = policies.client, policies.namespace, []
    await client.create(SECRETS, namespace, {"metadata": {"name": "a"}, "stringData": {"token": "one", "empty": " "}})
    await client.create(SECRETS, namespace, {"metadata": {"name": "b"}, "stringData": {"token": "other"}})
    token, empty, absent = (SecretRef(namespace, *name) for name in (("a", "token"), ("a", "empty"), ("c", "token")))
    watches = SecretWatches(client, lambda: news.append(1))
    watches.want([token, empty, absent])
    await watches.settle()
    held = watches.values([token, empty, absent, SecretRef(namespace, "b", "token")])
    assert {ref: value for ref, (_, value) in held.items()} == {token: b"one"}
    assert "one" not in repr(next(iter(watches._watches.values())).informer.objects)
    await client.merge_patch(SECRETS, namespace, "a", {"stringData": {"token": "two"}})
    await until(lambda: watches.values([token])[token][1] == b"two", "the new value")
    assert watches.values([token])[token][0] != held[token][0]
    await client.create(SECRETS, namespace, {"metadata": {"name": "c"}, "stringData": {"token": "late"}})
    await until(lambda: absent in watches.values([absent]), "the late Secret")
    await client.delete(SECRETS, namespace, "a")
    await until(lambda: not watches.values([token]), "the Secret gone")
    assert len(news) >= 4
    watches.want([absent])
    assert list(watches._watches) == [(namespace, "c")]
    watches.stop()
