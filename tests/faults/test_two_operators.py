"""Two operators of one fleet: one leads, the other takes over, and never do both write."""

from __future__ import annotations

import asyncio
import signal
from datetime import datetime

import pytest
from tests.faults.lives import STEADY_LEASE, held_write, living
from tests.faults.scene import Pool, Scene, Wish
from tests.operator.running import eventually

from modelfleet.kube.resources import DEPLOYMENTS, LEASES

FIRST = Wish(pools={"a": Pool(("fast",), 1), "b": Pool(("slow",), 1)}, policies=frozenset({"a"}))
# one write and no more: who falls asleep between the look at its Lease and the first byte sends it when it wakes, and nothing can keep it from that
SECOND = Wish(pools={"a": Pool(("fast",), 3), "b": Pool(("slow",), 1)}, policies=frozenset({"a"}))
THIRD = Wish(pools={"a": Pool(("fast",), 2), "c": Pool(("slow",), 1)}, policies=frozenset({"a"}))
DEADLINE = float(STEADY_LEASE["LEASE_DEADLINE"])


async def undisturbed(server, client, folder):
    scene, seen = await Scene.empty(client), []
    async with living(server, scene, folder) as lives:
        await lives.leader()
        for wish in (FIRST, SECOND, THIRD):
            await scene.want(wish)
            await lives.quiet()
            seen.append(await scene.objects())
    return seen


async def the_lease(scene):
    return (await scene.client.list(LEASES, scene.namespace))[0][0]["spec"]


@pytest.mark.timeout(1200)
async def test_the_second_takes_over_when_the_first_is_killed_and_never_sooner(server, client, tmp_path):
    first, second, third = await undisturbed(server, client, tmp_path)
    scene = await Scene.empty(client)
    async with living(server, scene, tmp_path, count=2, **STEADY_LEASE) as lives:
        await lives.leader()
        for wish, wanted in ((FIRST, first), (SECOND, second), (THIRD, third)):
            await scene.want(wish)
            await lives.same(wanted)
            leader = await lives.quiet()
            follower = next(life for life in lives.running if life is not leader)
            writes = len(follower.wrote)
            assert (await follower.operator.ask("/readyz"))[0] == 200, "a follower is ready, or no rollout would end"
            before = await the_lease(scene)
            leader.operator.kill()
            await leader.operator.ends()
            await eventually(lambda follower=follower: follower.leads(), follower.operator.story)
            after = await the_lease(scene)
            # the record tells who led until when; a follower that is quick waits out the Lease, one that is slow does no harm
            assert (await the_lease(scene))["leaseTransitions"] == before.get("leaseTransitions", 0) + 1
            assert after["holderIdentity"].startswith(follower.operator.log.stem)
            assert _seconds(after["acquireTime"]) - _seconds(before["renewTime"]) > DEADLINE
            await lives.same(wanted)
            assert len(follower.wrote) == writes, "whoever finds everything done writes nothing"
        lives.assert_one_writer_at_a_time()


@pytest.mark.timeout(1200)
async def test_a_write_in_flight_while_its_writer_sleeps_past_the_lease_is_undone_by_the_next_one(server, client, tmp_path):
    """The first has sent one write when it is stopped; the second leads and finishes; then the old write arrives, and its writer wakes up."""
    _, second, third = await undisturbed(server, client, tmp_path)
    scene = await Scene.empty(client)
    async with living(server, scene, tmp_path, count=2, **STEADY_LEASE) as lives:
        await lives.leader()
        await scene.want(FIRST)
        old = await lives.quiet()
        held = held_write(old, lambda seen: "/deployments/a-fast" in seen.path)
        await scene.want(SECOND)
        await asyncio.wait_for(held.arrived.wait(), 90)
        old.operator.signal(signal.SIGSTOP)
        new = await eventually(lambda: _other_leads(lives, old), lives.story, 120)
        await scene.want(THIRD)
        await eventually(lambda: _replicas(scene, "a-fast", 2), new.operator.story, 120)

        sent = len(old.wrote)
        held.release()
        old.operator.signal(signal.SIGCONT)
        assert await old.operator.ends() == 1, old.operator.story()
        assert len(old.wrote) == sent, [seen.path for _, seen in old.wrote[sent:]]
        await lives.same(third)
        assert not new.operator.ended(), new.operator.story()
    assert second != third


async def _other_leads(lives, old):
    for life in lives.running:
        if life is not old and await life.leads():
            return life
    return None


async def _replicas(scene, name, number):
    return (await scene.client.get(DEPLOYMENTS, scene.namespace, name))["spec"]["replicas"] == number


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
