"""The API server away: connections stay open and bytes vanish, as behind a dead switch; then it is back, and may have forgotten its history."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.faults.lives import STEADY_LEASE, Through, living
from tests.faults.scene import Pool, Scene, Wish
from tests.kube.waiting import compact
from tests.operator.running import PATIENT
from tests.router.test_gateway import Gateway, a_gateway
from tests.support.proxy import TcpProxy

from modelfleet.kube.resources import MODEL_POOLS

AWAY = [15.0, pytest.param(60.0, marks=pytest.mark.faults)]
PACE = {"PACE_REQUEST": "2", "PACE_SILENCE": "4", "PACE_GHOSTS": "3"}
"""Seconds after which a call, a watch and our own trust in a watch end; a minute is long for each of them, as it is in production for none."""

BEFORE = Wish(pools={"stays": Pool(("fast", "slow"), 2), "goes": Pool(("fast",), 1), "anew": Pool(("slow",), 1)}, policies=frozenset({"a"}))
AFTER = Wish(
    pools={"stays": Pool(("slow",), 1), "anew": Pool(("slow",), 3, life=1), "comes": Pool(("fast",), 2)},
    teams=frozenset({"b"}), nodes={"fast": False, "slow": True},
)  # fmt: skip


async def undisturbed(server, client, folder):
    scene = await Scene.empty(client)
    async with living(server, scene, folder) as lives:
        await lives.leader()
        await scene.want(BEFORE)
        await lives.quiet()
        await scene.want(AFTER)
        await lives.quiet()
        return await scene.objects()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seconds", AWAY)
@pytest.mark.parametrize("forgets", [pytest.param(False, id="remembers", marks=pytest.mark.faults), pytest.param(True, id="forgets")])
async def test_an_operator_waits_and_then_does_what_was_wanted_meanwhile(server, client, tmp_path, seconds, forgets):
    """With a Lease longer than the silence it is the same process all the while; nothing of the old wish is written once the new one could be read."""
    wanted = await undisturbed(server, client, tmp_path)
    scene = await Scene.empty(client)
    async with TcpProxy(server.url) as way, living(Through(way.url, server.token, server.ca_file), scene, tmp_path, **PATIENT, **PACE) as lives:
        leader = await lives.leader()
        await scene.want(BEFORE)
        await lives.quiet()
        way.blackhole()
        await scene.want(AFTER)
        await asyncio.sleep(seconds)
        assert not leader.operator.ended(), lives.story()
        if forgets:
            _, now = await client.list(MODEL_POOLS)
            compact(server, now)
        way.resume()
        way.cut()
        await lives.same(wanted)
        assert [life for life in lives.all if life is not leader] == [], "it was never replaced"
        assert (await leader.operator.ask("/healthz"))[0] == 200


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seconds", AWAY)
async def test_operators_that_lose_their_lease_end_and_the_next_ones_wait(server, client, tmp_path, seconds):
    """With a Lease shorter than the silence the leader ends, as it must; who comes next neither ends nor leads while nobody answers."""
    wanted = await undisturbed(server, client, tmp_path)
    scene = await Scene.empty(client)
    async with TcpProxy(server.url) as way, living(Through(way.url, server.token, server.ca_file), scene, tmp_path, count=2, **STEADY_LEASE, **PACE) as lives:
        first = await lives.leader()
        await scene.want(BEFORE)
        await lives.quiet()
        way.blackhole()
        assert await first.operator.ends() == 1, first.operator.story()
        await scene.want(AFTER)
        before = lives.work()
        await asyncio.sleep(seconds)
        assert len(lives.all) == 3, "the leader alone was replaced"
        assert lives.work() == before, "nobody writes without a Lease"
        way.resume()
        way.cut()
        await lives.same(wanted)
        lives.assert_one_writer_at_a_time()


class Elsewhere:
    """The fixture's API server for the test; the router is shown the way through a proxy."""

    def __init__(self, server, kubeconfig: Path) -> None:
        self._server, self.kubeconfig = server, kubeconfig

    def __getattr__(self, name: str):
        return getattr(self._server, name)


@asynccontextmanager
async def load(gateway: Gateway):
    """Requests one after the other, every second a stream; all answers so far."""
    answers = []

    async def ask() -> None:
        while True:
            answers.append(await gateway.chat(stream=len(answers) % 2 == 1))
            await asyncio.sleep(0.1)

    task = asyncio.create_task(ask())
    try:
        yield answers
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seconds", AWAY)
async def test_a_gateway_serves_on_and_then_learns_what_is_gone(make_apiserver, tmp_path, seconds):
    """The pods of a pool and a policy go while nobody can tell; the history that names them is compacted before the API server is back."""
    server = make_apiserver()
    server.apply_crds()
    async with TcpProxy(server.url) as way, a_gateway(Elsewhere(server, way.kubeconfig(tmp_path, server))) as gateway:
        await gateway.answers("RuleMatched")
        other = gateway.policy() | {"metadata": {"name": "other", "namespace": gateway.namespace}, "status": {}}
        other["spec"] |= {"entrypoints": [{"name": "other"}]}
        server.apply(json.dumps(other))
        for _ in range(900):
            if (await gateway.chat(model="other")).status == 200:
                break
            await asyncio.sleep(0.1)
        assert (await gateway.chat(model="other")).status == 200

        async with load(gateway) as answers:
            way.blackhole()
            await asyncio.sleep(seconds)
        assert len(answers) > 5
        assert {(a.status, a.complete) for a in answers} == {(200, True)}
        # on a busy machine a decision may come too late, and the static chain begins with the boss
        assert f"{gateway.namespace}/small/cpu" in {a.headers["x-modelfleet-served"] for a in answers}

        server.kubectl("delete", "endpointslice/small-cpu-x", "routingpolicy/other", "-n", gateway.namespace, check=True)
        version = server.get("modelpool", "small", "-n", gateway.namespace)["metadata"]["resourceVersion"]
        server.kubectl("label", "namespace", gateway.namespace, "touched=yes", check=True)
        now = server.get("namespace", gateway.namespace)["metadata"]["resourceVersion"]
        assert int(now) > int(version)
        server.stop()  # the API server keeps recent history in memory as well: it has to forget too
        compact(server, now)
        server.start()
        way.resume()
        way.cut()
        async with load(gateway) as answers:
            for _ in range(1500):
                gone = await gateway.chat(model="other")
                if gone.status == 404 and answers and answers[-1].headers["x-modelfleet-served"] == f"{gateway.namespace}/boss/far":
                    break
                await asyncio.sleep(0.1)
        assert gone.status == 404, gone
        assert answers[-1].headers["x-modelfleet-served"] == f"{gateway.namespace}/boss/far"
        assert {(a.status, a.complete) for a in answers} == {(200, True)}
