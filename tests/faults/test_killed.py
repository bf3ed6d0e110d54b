"""SIGKILL of the operator at requests that a seed or a count names: whoever comes next leaves the same objects as a run that nobody disturbed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.faults.lives import Lives, When, is_request, living
from tests.faults.scene import Objects, Pool, Scene, Wish, a_story
from tests.support.apiserver import ApiServer

from modelfleet.kube.client import Client

STEPS = 6
QUICK = 1
SEEDS = [pytest.param(seed, marks=[pytest.mark.faults] * (seed >= QUICK)) for seed in range(20)]
FEWEST_KILLS = 2
MOST_LIVES = 60


@dataclass(frozen=True)
class Moment:
    """What an undisturbed run came to after one wish, with how many writes."""

    wish: Wish
    objects: Objects
    writes: int


async def undisturbed(server: ApiServer, client: Client, folder: Path, story: list[Wish]) -> list[Moment]:
    scene, moments = await Scene.empty(client), []
    async with living(server, scene, folder) as lives:
        await lives.leader()
        for wish in story:
            before = lives.work()
            await scene.want(wish)
            await lives.quiet()
            moments.append(Moment(wish, await scene.objects(), lives.work() - before))
        assert len(lives.all) == 1 or len(lives.reigns()) > 0, lives.story()
    assert sum(moment.writes for moment in moments) > STEPS
    return moments


async def disturbed(scene: Scene, lives: Lives, moment: Moment, number: int, when: When) -> bool:
    """Change what the moment changed, kill the leader at that write, wait for the same objects. Answers whether it was killed."""
    leader = await lives.quiet()
    leader.kill_at(number, when)
    await scene.want(moment.wish)
    await lives.same(moment.objects)
    leader.spare()
    return leader.struck is not None


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_story_with_a_death_in_every_chapter(server, client, tmp_path, seed):
    """Each change of the fleet finds the leader dead at one of its writes; a second operator takes over when the Lease of two seconds is out."""
    rng = random.Random(f"kills/{seed}")
    moments = await undisturbed(server, client, tmp_path, a_story(seed, STEPS))
    scene, kills = await Scene.empty(client), 0
    async with living(server, scene, tmp_path, count=2) as lives:
        for moment in moments:
            if moment.writes:
                kills += await disturbed(scene, lives, moment, rng.randint(1, moment.writes), rng.choice(("before", "after")))
            else:
                await scene.want(moment.wish)
                await lives.same(moment.objects)
        lives.assert_one_writer_at_a_time()
    assert kills >= FEWEST_KILLS, [(m.writes) for m in moments]


BEFORE = Wish(pools={"a": Pool(("fast", "slow"), 2), "b": Pool(("slow",), 1)}, policies=frozenset({"a"}))
AFTER = Wish(
    pools={"a": Pool(("fast", "slow"), 1), "c": Pool(("fast",), 2)}, policies=frozenset({"b"}), teams=frozenset({"a"}), prices={"fast": "4.00", "slow": "1.50"}
)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_at_every_write_of_a_change(server, client, tmp_path, when):
    """There and back again: the change is made as often as it has writes, and each time the leader dies at the next of them."""
    there, back = (await undisturbed(server, client, tmp_path, [BEFORE, AFTER, BEFORE]))[1:]
    assert there.writes > 2, there
    scene, kills = await Scene.empty(client), 0
    await scene.want(BEFORE)
    async with living(server, scene, tmp_path, count=2) as lives:
        for number in range(1, there.writes + 1):
            kills += await disturbed(scene, lives, there, number, when)
            await scene.want(back.wish)
            await lives.same(back.objects)
        lives.assert_one_writer_at_a_time()
    assert kills >= there.writes - 2


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_at_every_request_from_its_start(server, client, tmp_path, when):
    """The first life dies at its first list, the next at its second request, and so on until one lives through a whole reconcile."""
    (whole,) = await undisturbed(server, client, tmp_path, [BEFORE])
    scene = await Scene.empty(client)
    await scene.want(BEFORE)
    async with living(server, scene, tmp_path, count=0) as lives:
        for number in range(1, MOST_LIVES):
            await scene.no_lease()
            life = await lives.start()
            life.kill_at(number, when, is_request)
            if await lives.ends_or_is_quiet(life):
                break
        assert len(lives.all) > 10, "there are more requests than that before the first write"
        assert not life.operator.ended(), lives.story()
        life.spare()
        await lives.same(whole.objects)
        lives.assert_one_writer_at_a_time()
    assert await scene.events_told_twice() == []
