"""A plan that remembers the one before it is the plan of the same world: byte for byte, for any sequence of changes, and cheap where little changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.core.test_laws import CLASSES, TROUBLES, Trouble, befall, bytes_of, fleets
from tests.support.builders import NOON, a_class, a_foreign_pod, a_node, a_pod, a_policy, a_pool, a_world
from tests.support.fakefleet import FakeFleet

from modelfleet.api.parse import InvalidObject
from modelfleet.core import memory as memory_module
from modelfleet.core.catalogue.offers import build_catalogue
from modelfleet.core.clock import ALWAYS, Clock
from modelfleet.core.memory import NOTHING, Memory
from modelfleet.core.placement import fleet as fleet_module
from modelfleet.core.placement.slots import Slots
from modelfleet.core.reconcile import plan_fleet, replan
from modelfleet.core.world import Defaults, Gateway, Served, World

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
AROUND = st.lists(
    st.tuples(
        st.sampled_from(
            ["price", "class", "policies", "gateways", "served", "stale", "images", "labels", "invalid", "paused", "deleting", "guest", "again", "clock"]
        ),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=6,
)


@dataclass
class Around:
    """What a FakeFleet does not play: policies, telemetry, defaults, prices; changed beside the fleet's own troubles."""

    world: World
    seconds: int = 0

    def change(self, what: str, amount: int) -> None:
        world, pools = self.world, self.world.pools
        match what:
            case "price":
                self.world = replace(world, classes=tuple(a_class(n, f"{amount}.50") for n in CLASSES))
            case "class":
                self.world = replace(world, classes=tuple(c for i, c in enumerate(world.classes) if i != amount))
            case "policies":
                self.world = replace(world, policies=tuple(a_policy(f"p{i}", "a", "gone", generation=amount + 1) for i in range(amount)))
            case "gateways":
                self.world = replace(world, gateways=tuple(Gateway(f"gw-{i}") for i in range(amount)))
            case "served" if pools:
                flavor = pools[0].spec.flavors[0].name
                served = (Served(pools[0].key, flavor, 1000 * amount, 500 * amount, (5.0, 30.0, 90.0, 600.0)[amount]),)
                self.world = replace(world, telemetry=replace(world.telemetry, served=served, fresh=True))
            case "stale":
                self.world = replace(world, telemetry=replace(world.telemetry, fresh=bool(amount % 2)))
            case "images":
                self.world = replace(world, defaults=replace(world.defaults, images={"LlamaCpp": f"llama:{amount}"}))
            case "labels":
                self.world = replace(world, defaults=replace(world.defaults, label_nodes=bool(amount % 2)))
            case "invalid":
                self.world = replace(world, invalid=tuple(InvalidObject("ModelPool", "apps", f"bad{i}", f"u{i}", 1, ("spec: no",)) for i in range(amount)))
            case "paused" | "deleting" if pools:
                meta = {"annotations": {"modelfleet.dev/paused": "true"}} if what == "paused" else {"deletion_timestamp": NOON}
                chosen = pools[amount % len(pools)]
                changed = chosen.model_copy(update={"metadata": chosen.metadata.model_copy(update=meta)})
                self.world = replace(world, pools=tuple(changed if p is chosen else p for p in pools))
            case "guest" if world.nodes:
                guest = replace(a_foreign_pod(world.nodes[amount % len(world.nodes)].name, amount), name=f"guest-{len(world.pods)}")
                self.world = replace(world, pods=(*world.pods, guest))
            case "again":
                self.world = replace(world, pods=tuple(replace(p) for p in world.pods), workloads=tuple(replace(w) for w in world.workloads))
            case "clock":
                self.seconds += (1, 59, 700, -90)[amount]
            case _:
                pass

    def now(self, fleet: FakeFleet) -> World:
        """The fleet's world with what is around it; changes of pools, pods and classes last for one world."""
        seen, mine = fleet.world(), self.world
        kept = {f: getattr(mine, f) for f in ("policies", "gateways", "defaults", "invalid")}
        return replace(seen, now=seen.now + timedelta(seconds=self.seconds, microseconds=250_000), **kept)


def assert_replans(world: World, memory: Memory) -> Memory:
    plan, after = replan(world, memory)
    whole = plan_fleet(world)
    assert plan == whole
    assert bytes_of(plan) == bytes_of(whole)
    return after


@SETTINGS
@given(fleets(), st.lists(st.tuples(TROUBLES, AROUND), min_size=1, max_size=4), st.sampled_from([None, None, 0, 1, 3]))
def test_a_replan_is_the_plan(fleet: FakeFleet, story: list[tuple[list[Trouble], list[tuple[str, int]]]], stop: int | None) -> None:
    memory, around = NOTHING, Around(fleet.world())
    for troubles, changes in story:
        for trouble in troubles:
            befall(fleet, trouble)
            memory = assert_replans(around.now(fleet), memory)
            fleet.act(plan_fleet(fleet.world()), stop_after=stop)
            memory = assert_replans(around.now(fleet), memory)
            fleet.work()
            memory = assert_replans(around.now(fleet), memory)
        for what, amount in changes:
            around.world = around.now(fleet)
            around.change(what, amount)
            memory = assert_replans(replace(around.world, now=around.now(fleet).now), memory)
            memory = assert_replans(around.now(fleet), memory)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[str]]]:
    """Keys of the pools that were looked at, placed and rendered anew."""
    calls: dict[str, list[str]] = {"seen": [], "placed": [], "rendered": []}

    def spy(module: Any, name: str, into: str, key: Any) -> None:
        real = getattr(module, name)

        def wrapped(*args: Any) -> Any:
            calls[into].append(key(args[0]))
            return real(*args)

        monkeypatch.setattr(module, name, wrapped)

    with monkeypatch.context() as patching:
        monkeypatch = patching
        spy(fleet_module, "_see", "seen", lambda near: near.key)
        spy(fleet_module, "_place", "placed", lambda seen: seen.near.key)
        spy(memory_module, "children_of", "rendered", lambda near: near.key)
        yield calls


def a_settled_fleet(pools: int = 6, devices: int = 20) -> FakeFleet:
    built = [a_pool(f"p{i}").wants("h100", or_else="l4").build() for i in range(pools)]
    fleet = FakeFleet(built, [a_class("h100"), a_class("l4")], [a_node("n1", "h100", devices), a_node("n2", "l4", devices)])
    fleet.settle()
    return fleet


def scaled(fleet: FakeFleet, name: str, replicas: int) -> None:
    pool = fleet.pools[f"apps/{name}"]
    meta = pool.metadata.model_copy(update={"generation": pool.metadata.generation + 1})
    fleet.pools[pool.key] = pool.model_copy(update={"spec": pool.spec.model_copy(update={"replicas": replicas}), "metadata": meta})


def test_nothing_changed_and_nothing_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = a_settled_fleet()
    plan, memory = replan(fleet.world(), NOTHING)
    with counted(monkeypatch) as calls:
        again, after = replan(replace(fleet.world(), now=fleet.now + timedelta(days=1)), memory)
    assert calls == {"seen": [], "placed": [], "rendered": []}
    assert all(a is b for a, b in zip(plan.children, again.children, strict=True))
    assert all(a is b for a, b in zip(plan.statuses, again.statuses, strict=True))
    assert after.outcomes == memory.outcomes


def test_a_pool_that_changes_is_done_alone_though_it_takes_from_the_same_class(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = a_settled_fleet()
    _, memory = replan(fleet.world(), NOTHING)
    scaled(fleet, "p2", 3)
    with counted(monkeypatch) as calls:
        assert_replans_quietly = replan(fleet.world(), memory)
    assert calls == {"seen": ["apps/p2"], "placed": ["apps/p2"], "rendered": ["apps/p2"]}
    assert assert_replans_quietly[0] == plan_fleet(fleet.world())


def test_who_loses_its_device_to_another_is_placed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = a_settled_fleet(pools=3, devices=4)
    scaled(fleet, "p2", 2)
    _, memory = replan(fleet.world(), NOTHING)  # p2 is promised the last device and its pod is not there yet
    scaled(fleet, "p0", 2)
    with counted(monkeypatch) as calls:
        plan, _ = replan(fleet.world(), memory)
    assert calls["seen"] == ["apps/p0"]
    assert calls["placed"] == ["apps/p0", "apps/p2"]
    assert plan == plan_fleet(fleet.world())


def test_time_alone_wakes_the_pool_whose_timer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = a_pod("boss", "h100", unschedulable_since=NOON, unschedulable_message="no room", phase="Pending")
    calm = a_pool("calm").wants("h100").replicas(0)
    world = a_world(a_pool("boss").wants("h100", or_else="l4"), calm, a_class("h100"), a_class("l4"), a_node("a", "h100"), a_node("b", "l4"), stuck)
    _, memory = replan(world, NOTHING)
    _, memory = replan(replace(world, now=NOON + timedelta(seconds=1)), memory)
    late = replace(world, now=NOON + timedelta(seconds=90))
    with counted(monkeypatch) as calls:
        plan, _ = replan(late, memory)
    assert calls["seen"] == ["apps/boss"]
    assert plan == plan_fleet(late)


def test_a_memory_holds_one_world() -> None:
    fleet = a_settled_fleet()
    _, memory = replan(fleet.world(), NOTHING)
    _, memory = replan(World(NOON, defaults=Defaults()), memory)
    assert (memory.placed, memory.outcomes, memory.statuses, memory.neighbourhood.of, memory.catalogue.matches) == ({}, {}, {}, {}, {})


def test_a_clock_knows_how_long_its_answers_hold() -> None:
    clock = Clock(NOON + timedelta(milliseconds=300))
    assert clock.span is ALWAYS
    assert clock.reached(NOON)
    assert not clock.reached(NOON + timedelta(minutes=1))
    assert not clock.reached(NOON + timedelta(minutes=9))
    assert (clock.span.since, clock.span.until) == (NOON, NOON + timedelta(minutes=1))
    assert clock.second() == NOON
    assert [clock.span.holds(NOON + timedelta(seconds=s)) for s in (-0.1, 0, 0.9, 1)] == [False, True, True, False]


@SETTINGS
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 6)), max_size=4),
    st.lists(st.tuples(st.sampled_from(["count", "take", "release"]), st.sampled_from(["h100", "l4"]), st.integers(1, 3), st.integers(0, 4)), max_size=8),
    st.integers(0, 4),
)
def test_draws_that_replay_end_in_the_ledger_that_drawing_again_ends_in(
    nodes: list[tuple[str, int]], asked: list[tuple[str, str, int, int]], taken: int
) -> None:
    catalogue = build_catalogue([a_class("h100"), a_class("l4")], [a_node(f"n{i}", "h100" if k == "a" else "l4", n) for i, (k, n) in enumerate(nodes)], [])

    def draw(slots: Slots) -> list[int]:
        slots.begin()
        answers = []
        for what, name, units, replicas in asked:
            match what:
                case "count":
                    answers.append(slots.count(name, units, replicas))
                case "take":
                    answers.append(slots.take("me", name, units, replicas))
                case _:
                    slots.release("me")
        return answers

    def emptier() -> Slots:
        slots = Slots(catalogue)
        slots.take("other", "h100", 1, taken)
        return slots

    first, replayed, anew = Slots(catalogue), emptier(), emptier()
    heard = draw(first)
    if replayed.replay("me", first.draws):
        assert draw(anew) == heard
        assert replayed._free == anew._free
    else:
        assert draw(anew) != heard
        assert replayed._free == emptier()._free
