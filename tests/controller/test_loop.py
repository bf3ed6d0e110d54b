"""The loop outlives failures, waits for the mirror, backs off what fails, and ends when told or when the Lease is gone."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime

import pytest

from modelfleet.controller.loop import Clocks, Loop
from modelfleet.controller.meters import Meters
from modelfleet.core.plan import Plan
from modelfleet.core.world import Defaults, Telemetry, World
from modelfleet.errors import Invalid, Retry
from modelfleet.kube.apply import ActResult
from modelfleet.kube.changes import Changes

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Mirror:
    """As much of a mirror as the loop asks for."""

    def __init__(self) -> None:
        self.complete = True
        self.broken = 0

    def synced(self) -> bool:
        return self.complete

    def snapshot(self, now: datetime, telemetry: Telemetry, defaults: Defaults) -> World:
        if self.broken:
            self.broken -= 1
            raise RuntimeError("unreadable")
        return World(now=now, telemetry=telemetry, defaults=defaults)


class Actor:
    """Remembers what it was asked, answers with what it was given."""

    def __init__(self) -> None:
        self.skips: list[frozenset[str]] = []
        self.answers: list[ActResult | Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()

    async def act(self, plan: Plan, skip: frozenset[str] = frozenset()) -> ActResult:
        self.skips.append(skip)
        self.begun.set()
        await self.gate.wait()
        answer = self.answers.pop(0) if self.answers else ActResult({}, 0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Bench:
    """A loop with everything in reach."""

    def __init__(self, **options: float) -> None:
        self.mirror, self.actor, self.changes = Mirror(), Actor(), Changes()
        self.plans: list[World] = []
        self.seconds = 0.0
        """What backs off does so by this clock; the rests of the loop are real."""
        self.planned: list[Plan | Exception] = []
        self.meters = Meters({("apply", "Deployment"): 3})
        self.loop = Loop(
            self.mirror, self.changes, self.actor, self.plan, Telemetry, defaults=Defaults(),
            clocks=Clocks(lambda: NOW, lambda: self.seconds), meters=self.meters,
            **options,
        )  # fmt: skip

    def plan(self, world: World) -> Plan:
        self.plans.append(world)
        answer = self.planned.pop(0) if self.planned else Plan()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def cycles(self, number: int) -> None:
        async with asyncio.timeout(60):
            while self.loop.cycles < number:
                await asyncio.sleep(0.005)

    def errors(self, step: str) -> float:
        return self.meters.registry.get_sample_value("modelfleet_operator_errors_total", {"step": step}) or 0.0


@pytest.fixture
async def bench():
    made = Bench()
    task = asyncio.create_task(made.loop.run())
    made.task = task
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_nothing_is_planned_before_the_mirror_is_complete():
    bench = Bench()
    bench.mirror.complete = False
    task = asyncio.create_task(bench.loop.run())
    bench.changes.add("ModelPool:a/b")
    await asyncio.sleep(0.3)
    assert bench.plans == []
    bench.mirror.complete = True
    await bench.cycles(1)
    bench.loop.stop()
    await task


async def test_a_change_begins_a_cycle_and_silence_does_not(bench):
    await bench.cycles(1)
    await asyncio.sleep(0.3)
    assert bench.loop.cycles == 1
    bench.changes.add("ModelPool:a/b")
    await bench.cycles(2)


async def test_a_recheck_is_kept(bench):
    await bench.cycles(1)
    bench.planned.append(Plan(recheck_after=0.01))
    bench.changes.add("ModelPool:a/b")
    await bench.cycles(3)


async def test_silence_ends_after_the_resync():
    bench = Bench(resync=0.2)
    task = asyncio.create_task(bench.loop.run())
    await bench.cycles(3)
    bench.loop.stop()
    await task


async def test_a_plan_that_fails_is_counted_and_tried_again(bench):
    await bench.cycles(1)
    bench.planned.append(ZeroDivisionError("bad object"))
    bench.changes.add("ModelPool:a/b")
    await bench.cycles(3)
    assert bench.errors("plan") == 1
    assert not bench.task.done()


async def test_a_snapshot_that_fails_is_counted_and_tried_again(bench):
    await bench.cycles(1)
    bench.mirror.broken = 1
    bench.changes.add("ModelPool:a/b")
    await bench.cycles(3)
    assert bench.errors("observe") == 1


async def test_an_object_that_cannot_be_written_is_left_alone_for_a_while_and_then_tried(bench):
    refused = ActResult({"Deployment:a/b-l4": Invalid(422, "Invalid", "no")}, 1)
    await bench.cycles(1)
    bench.actor.answers.append(refused)
    bench.changes.add("Node:n")
    await bench.cycles(2)
    bench.changes.add("Node:n")
    await bench.cycles(3)
    assert bench.actor.skips[2] == {"Deployment:a/b-l4"}
    bench.seconds += 2.0
    async with asyncio.timeout(60):
        while bench.actor.skips[-1]:  # due again by itself
            await asyncio.sleep(0.005)
    assert bench.errors("object") == 1


async def test_news_of_a_pool_forgives_its_children(bench):
    await bench.cycles(1)
    bench.actor.answers.append(ActResult({"Deployment:a/b-l4": Invalid(422, "Invalid", "no"), "Deployment:c/d": Invalid(422, "Invalid", "no")}, 1))
    bench.changes.add("Node:n")
    await bench.cycles(2)
    bench.changes.add("ModelPool:a/b")
    await bench.cycles(3)
    assert bench.actor.skips[2] == {"Deployment:c/d"}


async def test_writing_without_the_lease_ends_the_loop(bench):
    await bench.cycles(1)
    bench.actor.answers.append(Retry("LeaseNotHeld", "no"))
    bench.changes.add("Node:n")
    with pytest.raises(Retry, match="LeaseNotHeld"):
        await bench.task


async def test_stop_lets_the_act_in_hand_finish(bench):
    await bench.cycles(1)
    bench.actor.gate.clear()
    bench.actor.begun.clear()
    bench.changes.add("Node:n")
    await bench.actor.begun.wait()
    bench.loop.stop()
    await asyncio.sleep(0.1)
    assert not bench.task.done()
    bench.actor.gate.set()
    await bench.task
    assert bench.loop.cycles == 2


async def test_planning_leaves_the_event_loop_free(bench):
    await bench.cycles(1)
    planning, go = threading.Event(), threading.Event()

    def slow(world: World) -> Plan:
        planning.set()
        go.wait(60)
        return Plan()

    bench.loop._plan = slow
    bench.changes.add("Node:n")
    async with asyncio.timeout(60):
        while not planning.is_set():
            await asyncio.sleep(0.005)
    go.set()
    await bench.cycles(2)


def test_writes_of_the_client_are_shown():
    meters = Meters({("apply", "Deployment"): 3})
    assert meters.registry.get_sample_value("modelfleet_operator_writes_total", {"verb": "apply", "kind": "Deployment"}) == 3
