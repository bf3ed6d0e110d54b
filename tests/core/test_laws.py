"""The laws of planning, on random fleets and on a cluster that never stays as it is (api.md, "What must hold")."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.support.builders import GPU, a_class, a_node, a_pool
from tests.support.fakefleet import FakeFleet
from tests.support.golden import plan_to_yaml

from modelfleet.api.conditions import FlavorReason
from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.core.plan import Plan
from modelfleet.core.reconcile import plan_fleet
from modelfleet.core.render.labels import FLAVOR, POOL
from modelfleet.core.world import World

CLASSES = ("h100", "l4", "t4")
AFTER = 600
SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def bytes_of(plan: Plan) -> bytes:
    return orjson.dumps(plan_to_yaml(plan, manifests=True), option=orjson.OPT_SORT_KEYS)


def writes_of(fleet: FakeFleet) -> int:
    return len(fleet._steps(plan_fleet(fleet.world())))


@st.composite
def pools(draw: st.DrawFn, name: str) -> ModelPool:
    pool = a_pool(name).returning_after("10m")
    for flavor in draw(st.permutations(CLASSES))[: draw(st.integers(1, 3))]:
        fields: dict[str, Any] = {"devices": draw(st.integers(1, 2))}
        if draw(st.booleans()):
            fields["max"] = draw(st.integers(0, 3))
        pool = pool.on(flavor, flavor, **fields)
    if draw(st.booleans()):
        pool = pool.or_endpoint()
    low = draw(st.integers(0, 1))
    high = draw(st.integers(low, 4))
    return pool.between(low, high).replicas(draw(st.integers(low, high))).build()


@st.composite
def fleets(draw: st.DrawFn) -> FakeFleet:
    nodes = [a_node(f"n{i}", draw(st.sampled_from(CLASSES)), draw(st.integers(0, 4)), labelled=draw(st.booleans())) for i in range(draw(st.integers(0, 4)))]
    names = ["a", "b", "c"][: draw(st.integers(1, 3))]
    return FakeFleet([draw(pools(n)) for n in names], [a_class(c) for c in CLASSES], nodes)


Trouble = tuple[str, int, int]
TROUBLES = st.lists(
    st.tuples(st.sampled_from(["devices", "lose", "find", "time", "scale", "kill", "endpoint", "rollout", "flavors"]), st.integers(0, 3), st.integers(0, 4)),
    max_size=8,
)


def befall(fleet: FakeFleet, trouble: Trouble) -> None:
    what, which, amount = trouble
    nodes, keys = sorted(fleet.nodes), sorted(fleet.pools)
    node, key = (nodes[which % len(nodes)] if nodes else None), keys[which % len(keys)]
    pool = fleet.pools[key]
    match what:
        case "devices" if node:
            fleet.set_devices(node, amount)
        case "lose" if node:
            fleet.lose_node(node)
        case "find" if node:
            fleet.find_node(node)
        case "time":
            fleet.pass_time(amount * 200)
        case "scale":
            replicas = max(pool.spec.scaling.min, min(amount, pool.spec.scaling.max))
            meta = pool.metadata.model_copy(update={"generation": pool.metadata.generation + 1})
            fleet.pools[key] = pool.model_copy(update={"spec": pool.spec.model_copy(update={"replicas": replicas}), "metadata": meta})
        case "kill":
            for uid in sorted(fleet.pods)[:amount]:
                del fleet.pods[uid]
        case "rollout":
            fleet.new_revision(pool.metadata.name, f"--v{amount}")
        case "flavors" if len(pool.spec.flavors) > 1:
            flavors = [f.model_dump(by_alias=True, exclude_none=True) for f in pool.spec.flavors]
            fleet.change_spec(pool.metadata.name, flavors=[f for f in flavors if f["name"] != flavors[amount % len(flavors)]["name"]])
        case "endpoint":
            for flavor in pool.spec.flavors:
                if flavor.endpoint is not None:
                    fleet.down ^= {(key, flavor.name)}
        case _:
            pass


@SETTINGS
@given(fleets(), TROUBLES)
def test_a_second_plan_is_empty(fleet: FakeFleet, troubles: list[Trouble]) -> None:
    fleet.settle(40)
    assert writes_of(fleet) == 0
    for trouble in troubles:
        befall(fleet, trouble)
        fleet.settle(40)
        assert writes_of(fleet) == 0
        assert not plan_fleet(fleet.world()).events


@SETTINGS
@given(fleets(), TROUBLES, st.randoms(use_true_random=False))
def test_the_order_of_the_world_is_no_matter(fleet: FakeFleet, troubles: list[Trouble], chance: random.Random) -> None:
    for trouble in troubles:
        befall(fleet, trouble)
        fleet.act(plan_fleet(fleet.world()))
        fleet.work()
        world = fleet.world()
        shuffled = replace(
            world, **{f: tuple(chance.sample(getattr(world, f), len(getattr(world, f)))) for f in ("pools", "classes", "nodes", "pods", "workloads")}
        )
        assert bytes_of(plan_fleet(world)) == bytes_of(plan_fleet(shuffled))


@dataclass
class Bounds:
    """What must hold in every single plan."""

    fleet: FakeFleet

    def check(self, world: World, plan: Plan) -> None:
        for pool in world.pools:
            status = next(s.status for s in plan.statuses if s.kind == "ModelPool" and s.name == pool.metadata.name)
            pods = [(f, s) for f, s in zip(pool.spec.flavors, status["flavors"], strict=True) if f.endpoint is None]
            total = sum(s["desired"] for _, s in pods)
            surge = any(s["reason"] == FlavorReason.MIGRATING_BACK for _, s in pods) or total > pool.spec.scaling.max
            ready = self.fleet.ready(pool.metadata.name)
            # beyond max only as many as keep serving until their replacement is ready
            assert total <= pool.spec.scaling.max or (surge and total <= pool.spec.scaling.max + min(ready, pool.spec.scaling.max))
            for flavor, seen in pods:
                assert flavor.max is None or seen["desired"] <= flavor.max
                if seen["desired"] and flavor is not pool.spec.flavors[0]:
                    assert seen["reason"] != FlavorReason.STANDBY
        self._class_capacity(world, plan)

    def _class_capacity(self, world: World, plan: Plan) -> None:
        for name in CLASSES:
            offered = sum(n.allocatable.get(GPU, 0) for n in world.nodes if n.labels["device"] == name and n.ready and n.capacity.get(GPU, 0))
            held = sum(p.requests[GPU] for p in world.pods if p.flavor == name and p.node and self.fleet.nodes[p.node].ready)
            asked = 0
            for pool in world.pools:
                for flavor in pool.spec.flavors:
                    if flavor.accelerator_class == name:
                        status = next(s.status for s in plan.statuses if s.kind == "ModelPool" and s.name == pool.metadata.name)
                        asked += (flavor.devices or 1) * next(f["desired"] for f in status["flavors"] if f["name"] == flavor.name)
            assert asked <= max(offered, held)


@SETTINGS
@given(fleets(), TROUBLES)
def test_max_and_class_capacity_bound_every_plan(fleet: FakeFleet, troubles: list[Trouble]) -> None:
    bounds = Bounds(fleet)
    for trouble in [*troubles, ("time", 0, 4), ("time", 0, 4)]:
        befall(fleet, trouble)
        for _ in range(4):
            world = fleet.world()
            plan = plan_fleet(world)
            bounds.check(world, plan)
            fleet.act(plan)
            fleet.work()


@SETTINGS
@given(fleets(), TROUBLES)
def test_order_and_min_hold_once_everything_has_rested(fleet: FakeFleet, troubles: list[Trouble]) -> None:
    for trouble in troubles:
        befall(fleet, trouble)
        fleet.settle(40)
    for _ in range(6):
        fleet.pass_time(AFTER)
        fleet.settle(40)
    for key, pool in fleet.pools.items():
        flavors = dict(zip([f.name for f in pool.spec.flavors], pool.status.flavors, strict=True))
        for index, flavor in enumerate(pool.spec.flavors):
            later = sum(f.desired for f in pool.status.flavors[index + 1 :])
            lacking = pool.spec.replicas - sum(f.desired for f in pool.status.flavors)
            if later or lacking > 0:
                seen = flavors[flavor.name]
                room = flavor.endpoint is None and _fits(fleet, flavor.name, flavor.devices or 1) and (flavor.max is None or seen.desired < flavor.max)
                usable = flavor.endpoint is not None and (key, flavor.name) not in fleet.down
                assert not room, (key, seen)
                assert not usable, (key, seen)


def _fits(fleet: FakeFleet, class_name: str, devices: int) -> bool:
    for node in fleet.nodes.values():
        used = sum(p.requests[GPU] for p in fleet.pods.values() if p.node == node.name)
        if node.labels["device"] == class_name and node.ready and node.allocatable.get(GPU, 0) - used >= devices:
            return True
    return False


@SETTINGS
@given(fleets(), TROUBLES, st.lists(st.integers(0, 6), max_size=10))
def test_a_crash_after_any_write_converges_to_the_same(fleet: FakeFleet, troubles: list[Trouble], crashes: list[int]) -> None:
    for trouble in [*troubles, ("time", 0, 1)]:
        befall(fleet, trouble)
        for stop in crashes:
            fleet.act(plan_fleet(fleet.world()), stop_after=stop)
            fleet.work()
        fleet.settle(40)
    plan = plan_fleet(fleet.world())
    described = {k for k, c in fleet.children.items() if f"apps/{c['metadata']['labels'][POOL]}/{c['metadata']['labels'][FLAVOR]}" not in plan.held_flavors}
    assert described == {f"{m['kind']}/{m['metadata']['namespace']}/{m['metadata']['name']}" for m in plan.children}
    assert writes_of(fleet) == 0


@SETTINGS
@given(fleets(), TROUBLES)
def test_every_rollout_ends_and_surges_again(fleet: FakeFleet, troubles: list[Trouble]) -> None:
    fleet.settle(40)
    for trouble in [*troubles, *(("rollout", n, 9) for n in range(len(fleet.pools)))]:
        befall(fleet, trouble)
        fleet.settle(40)
    for _ in range(8):
        fleet.pass_time(AFTER)
        fleet.settle(40)
    for key, pool in fleet.pools.items():
        for flavor in (f for f in pool.spec.flavors if f.endpoint is None):
            running = [p for p in fleet.pods.values() if (p.pool, p.flavor) == (pool.metadata.name, flavor.name) and p.ready]
            assert len({p.revision for p in running}) <= 1, (key, flavor.name)
            if len(running) == fleet.desired(pool.metadata.name, flavor.name):
                assert fleet.surges(pool.metadata.name, flavor.name)


@SETTINGS
@given(fleets(), TROUBLES)
def test_stale_telemetry_never_shrinks(fleet: FakeFleet, troubles: list[Trouble]) -> None:
    fleet.settle(40)
    for trouble in troubles:
        befall(fleet, trouble)
        fleet.settle(40)
    before = {(k, f.name): f.desired for k, p in fleet.pools.items() for f in p.status.flavors if f.devices_per_replica}
    served = {k: fleet.ready(p.metadata.name) for k, p in fleet.pools.items()}
    fleet.telemetry_fresh = False
    plan = plan_fleet(fleet.world())
    after = {
        (f"{s.namespace}/{s.name}", f["name"]): f["desired"]
        for s in plan.statuses
        if s.kind == "ModelPool"
        for f in s.status["flavors"]
        if "devicesPerReplica" in f
    }
    assert before == after
    for _ in range(5):
        fleet.pass_time(AFTER)
        fleet.settle(40)
    assert all(fleet.ready(p.metadata.name) >= served[k] for k, p in fleet.pools.items())


@SETTINGS
@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_ready_never_drops_while_replicas_return(replicas: int, devices: int, data: st.DataObject) -> None:
    pool = a_pool("boss").wants("h100", or_else="l4").replicas(replicas).returning_after("10m").build()
    fleet = FakeFleet([pool], [a_class("h100"), a_class("l4")], [a_node("n1", "h100", devices, allocatable=0), a_node("n2", "l4", 8)])
    fleet.settle()
    assert fleet.ready("boss", "l4") == replicas
    fleet.set_devices("n1", devices)
    for _ in range(60):
        fleet.act(plan_fleet(fleet.world()), stop_after=data.draw(st.sampled_from([None, 0, 1, 3])))
        data.draw(st.sampled_from([fleet.work, fleet._follow_replicas, fleet._schedule]))()
        assert fleet.ready("boss") >= replicas
        assert fleet.ready("boss") <= replicas + 1
        fleet.pass_time(data.draw(st.sampled_from([0, 1, 60, 300])))
    fleet.pass_time(AFTER)
    for _ in range(replicas + 1):
        fleet.settle()
    assert fleet.ready("boss", "h100") == min(replicas, devices)
    assert fleet.ready("boss") == replicas


@pytest.mark.parametrize("period", [30, 120, 599])
def test_no_ping_pong_under_a_flickering_class(period: int) -> None:
    pool = a_pool("boss").wants("h100", or_else="l4").replicas(2).returning_after("10m").build()
    fleet = FakeFleet([pool], [a_class("h100"), a_class("l4")], [a_node("n1", "h100", 2), a_node("n2", "l4", 8)])
    fleet.settle()
    for step in range(40):
        fleet.set_devices("n1", 2 * (step % 2))
        fleet.settle()
        fleet.pass_time(period)
        fleet.settle()
    assert fleet.events.count("boss: MigratingBack") == 0
    assert fleet.ready("boss", "l4") == 2


def test_a_return_happens_once_after_the_flicker_ends() -> None:
    pool = a_pool("boss").wants("h100", or_else="l4").replicas(2).returning_after("10m").build()
    fleet = FakeFleet([pool], [a_class("h100"), a_class("l4")], [a_node("n1", "h100", 2), a_node("n2", "l4", 8)])
    fleet.settle()
    fleet.set_devices("n1", 0)
    fleet.settle()
    fleet.set_devices("n1", 2)
    fleet.settle()
    fleet.pass_time(AFTER - 1)
    fleet.settle()
    assert fleet.ready("boss", "h100") == 0
    fleet.pass_time(1)
    fleet.settle()
    assert (fleet.ready("boss", "h100"), fleet.ready("boss", "l4")) == (2, 0)
