"""Placement, told as stories on a small fleet; each names the law or the rule it shows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support.builders import GPU, NOON, PoolBuilder, a_class, a_cpu_node, a_foreign_pod, a_node, a_pod, a_pool, a_world
from tests.support.fakefleet import FakeFleet

from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.core.memory import NOTHING
from modelfleet.core.placement.decision import PoolDecision
from modelfleet.core.reconcile import plan_fleet, replan
from modelfleet.core.world import EndpointHealth, Node, Telemetry, Workload, World

H100, L4 = a_class("h100", "6.88"), a_class("l4", "0.71")


def decide(world: World, key: str = "apps/boss") -> PoolDecision:
    return replan(world, NOTHING)[1].placed[key].decision


def desired(decision: PoolDecision) -> dict[str, int]:
    return {f.name: f.desired for f in decision.flavors}


def reasons(decision: PoolDecision) -> dict[str, str]:
    return {f.name: str(f.reason) for f in decision.flavors}


def workloads(**replicas: int) -> tuple[Workload, ...]:
    return tuple(Workload("apps", f"boss-{f}", "boss", f, n) for f, n in replicas.items())


def remembering(pool: ModelPool, **flavors: dict[str, object]) -> ModelPool:
    """The pool with a status that was written for its present generation."""
    status = {"observedGeneration": pool.metadata.generation, "flavors": [{"name": n, "reason": "Standby", **f} for n, f in flavors.items()]}
    return ModelPool.model_validate(
        {"metadata": pool.metadata.model_dump(by_alias=True), "spec": pool.spec.model_dump(by_alias=True, exclude_none=True), "status": status}
    )


def test_a_brand_new_pool_takes_the_first_flavor_with_room_without_waiting() -> None:
    world = a_world(a_pool("boss").wants("h100", or_else="l4"), H100, L4, a_node("a", "h100"), a_node("b", "l4"))
    assert desired(decide(world)) == {"h100": 1, "l4": 0}
    assert reasons(decide(world)) == {"h100": "Preferred", "l4": "Standby"}


def test_a_pool_made_anew_is_not_placed_as_the_one_before_it_was() -> None:
    """Its Deployment may still be there when the new one is first seen; how soon the garbage collector comes must not decide."""
    pool = a_pool("boss").wants("h100", or_else="l4")
    left = Workload("apps", "boss-l4", "boss", "l4", 1, owners=frozenset({"the-first-life"}))
    for owners, expected in ((left.owners, {"h100": 1, "l4": 0}), (frozenset(), {"h100": 0, "l4": 1}), ({*left.owners, "uid-boss"}, {"h100": 0, "l4": 1})):
        world = a_world(pool, H100, L4, a_node("a", "h100"), a_node("b", "l4"), workloads=(replace(left, owners=frozenset(owners)),))
        assert desired(decide(world)) == expected, owners


def test_an_orphan_of_a_flavor_that_the_pool_has_not_is_left_alone() -> None:
    """Nothing owns it, so nothing may delete it: waiting for it to leave would be for ever."""
    orphan = Workload("apps", "boss-l4", "boss", "l4", 1)
    world = a_world(a_pool("boss").wants("h100"), H100, L4, a_node("a", "h100"), a_node("b", "l4"), workloads=(orphan,))
    assert decide(world).leaving == ()


def test_a_full_class_is_skipped_at_once_and_the_reason_says_so() -> None:
    world = a_world(a_pool("boss").wants("h100", or_else="l4"), H100, L4, a_node("a", "h100"), a_node("b", "l4"), a_foreign_pod("a"))
    decision = decide(world)
    assert desired(decision) == {"h100": 0, "l4": 1}
    assert reasons(decision) == {"h100": "NoFreeDevice", "l4": "Fallback"}
    assert decision.flavor("h100").message == "0 of 1 devices free (h100) since 12:00"
    assert decision.flavor("l4").message == "h100: 0 of 1 devices free (h100) since 12:00"


def test_since_when_a_class_is_full_is_remembered() -> None:
    pool = remembering(a_pool("boss").wants("h100", or_else="l4").build(), h100={"reason": "NoFreeDevice", "message": "0 of 4 devices free (h100) since 09:30"})
    world = a_world(pool, H100, L4, a_node("a", "h100"), a_node("b", "l4"), a_foreign_pod("a"))
    assert decide(world).flavor("h100").message == "0 of 1 devices free (h100) since 09:30"


def test_free_devices_on_two_nodes_do_not_make_room_for_one_replica() -> None:
    pool = a_pool("boss").on("h100x2", "h100", devices=2)
    decision = decide(a_world(pool, H100, a_node("a", "h100"), a_node("b", "h100")))
    assert decision.unplaced == 1
    assert decision.flavor("h100x2").message == "2 of 2 devices free (h100), 2 needed on one node since 12:00"


def test_two_flavors_of_one_class_do_not_count_a_device_twice() -> None:
    pool = a_pool("boss").on("one", "h100", max=1).on("two", "h100").replicas(2)
    assert desired(decide(a_world(pool, H100, a_node("a", "h100", 1)))) == {"one": 1, "two": 0}


@pytest.mark.parametrize(("node", "offered"), [("down", 0), ("cordoned", 0), ("fine", 1)])
def test_only_ready_and_schedulable_nodes_have_room(node: str, offered: int) -> None:
    place = a_node("a", "h100", ready=node != "down", schedulable=node != "cordoned")
    assert desired(decide(a_world(a_pool("boss").wants("h100"), H100, place))) == {"h100": offered}


def test_a_missing_class_and_a_class_without_nodes_have_their_own_reasons() -> None:
    decision = decide(a_world(a_pool("boss").wants("b200", "h100", or_else="l4"), H100, L4, a_node("b", "l4")))
    assert reasons(decision) == {"b200": "ClassNotFound", "h100": "NoMatchingNodes", "l4": "Fallback"}


def test_the_endpoint_takes_the_remainder_and_waits_again_when_pods_return() -> None:
    fleet = FakeFleet([a_pool("boss").wants("h100").or_endpoint().replicas(2).build()], [H100], [a_node("a", "h100", 2)])
    fleet.settle()
    fleet.set_devices("a", 0)
    fleet.settle()
    assert fleet.desired("boss", "remote") == 2
    assert fleet.pools["apps/boss"].status.flavor_summary == "remote"
    fleet.set_devices("a", 2)
    fleet.settle()
    assert fleet.reason("boss", "h100") == "WaitingToReturn"
    fleet.pass_time(600)
    fleet.settle()
    assert (fleet.ready("boss", "h100"), fleet.desired("boss", "remote")) == (2, 0)


def test_an_endpoint_that_is_down_is_skipped_and_named() -> None:
    pool = a_pool("boss").or_endpoint().wants("l4")
    health = (EndpointHealth("apps/boss", "remote", up=False, reason="KeyRefused"),)
    decision = decide(a_world(pool, L4, a_node("b", "l4"), telemetry=Telemetry(endpoints=health, fresh=True)))
    assert desired(decision) == {"remote": 0, "l4": 1}
    assert "refused the key: key token of Secret remote-key" in decision.flavor("remote").message


def test_pods_that_cannot_be_scheduled_though_devices_are_free_go_to_the_next_flavor_in_time() -> None:
    pool = a_pool("boss").wants("h100", or_else="l4").build()
    stuck = a_pod("boss", "h100", unschedulable_since=NOON, unschedulable_message="Insufficient memory")
    world = a_world(pool, H100, L4, a_node("a", "h100"), a_node("b", "l4"), stuck, workloads=workloads(h100=1, l4=0))
    early = decide(replace(world, now=NOON + timedelta(seconds=89)))
    assert desired(early) == {"h100": 1, "l4": 0}
    assert early.timers == (NOON + timedelta(seconds=90),)
    late = decide(replace(world, now=NOON + timedelta(seconds=90)))
    assert desired(late) == {"h100": 0, "l4": 1}
    assert late.flavor("h100").reason == "PendingTimeout"
    assert "Insufficient memory" in late.flavor("h100").message
    assert late.flavor("h100").retry_after == NOON + timedelta(seconds=690)


def test_a_flavor_that_failed_is_left_alone_until_its_time_comes_and_a_new_spec_forgets_it() -> None:
    pool = remembering(
        a_pool("boss").wants("h100", or_else="l4").build(),
        h100={"reason": "PendingTimeout", "message": "stuck", "retryAfter": NOON + timedelta(seconds=60), "freeSince": NOON - timedelta(seconds=540)},
        l4={"desired": 1},
    )
    world = a_world(pool, H100, L4, a_node("a", "h100"), a_node("b", "l4"), a_pod("boss", "l4", "b"), workloads=workloads(h100=0, l4=1))
    assert desired(decide(world)) == {"h100": 0, "l4": 1}
    assert decide(world).flavor("h100").message == "stuck"
    assert desired(decide(replace(world, now=NOON + timedelta(seconds=60)))) == {"h100": 1, "l4": 1}
    edited = pool.model_copy(update={"metadata": pool.metadata.model_copy(update={"generation": 2})})
    assert decide(replace(world, pools=(edited,))).flavor("h100").retry_after is None


def test_the_last_resort_keeps_its_stuck_replica_rather_than_nothing() -> None:
    stuck = a_pod("boss", "h100", unschedulable_since=NOON - timedelta(hours=1))
    decision = decide(a_world(a_pool("boss").wants("h100"), H100, a_node("a", "h100"), stuck, workloads=workloads(h100=1)))
    assert desired(decision) == {"h100": 1}
    assert reasons(decision) == {"h100": "PendingTimeout"}


def test_a_quota_is_a_named_reason_at_once() -> None:
    refused = (Workload("apps", "boss-h100", "boss", "h100", 1, failure="exceeded quota: gpus"),)
    decision = decide(a_world(a_pool("boss").wants("h100", or_else="l4"), H100, L4, a_node("a", "h100"), a_node("b", "l4"), workloads=refused))
    assert desired(decision) == {"h100": 0, "l4": 1}
    assert reasons(decision)["h100"] == "QuotaExceeded"


@pytest.mark.parametrize(
    ("waiting", "restarts", "moves"), [("CrashLoopBackOff", 5, True), ("CrashLoopBackOff", 1, False), ("ImagePullBackOff", 0, True), ("", 5, False)]
)
def test_pods_that_never_come_up_are_given_up_after_a_while(waiting: str, restarts: int, moves: bool) -> None:
    pod = a_pod("boss", "h100", "a", ready=False, waiting_reason=waiting, restarts=restarts, created=NOON - timedelta(seconds=100))
    decision = decide(a_world(a_pool("boss").wants("h100", or_else="l4"), H100, L4, a_node("a", "h100"), a_node("b", "l4"), pod, workloads=workloads(h100=1)))
    assert desired(decision) == ({"h100": 0, "l4": 1} if moves else {"h100": 1, "l4": 0})


def test_a_surge_pod_that_waits_for_a_device_is_no_reason_to_leave() -> None:
    surge = a_pod("boss", "h100", index=1, unschedulable_since=NOON - timedelta(hours=1))
    world = a_world(
        a_pool("boss").wants("h100", or_else="l4"),
        H100,
        L4,
        a_node("a", "h100"),
        a_node("b", "l4"),
        a_pod("boss", "h100", "a"),
        surge,
        workloads=workloads(h100=1),
    )
    assert desired(decide(world)) == {"h100": 1, "l4": 0}


def test_a_lost_node_is_replaced_in_the_same_cycle() -> None:
    world = a_world(
        a_pool("boss").wants("h100"), H100, a_node("a", "h100", ready=False), a_node("b", "h100"), a_pod("boss", "h100", "a"), workloads=workloads(h100=1)
    )
    flavor = decide(world).flavor("h100")
    assert (flavor.desired, flavor.deployment_replicas) == (1, 2)


def test_a_device_that_vanishes_below_a_running_pod_stops_nothing() -> None:
    node = a_node("a", "h100", 1, allocatable=0)
    world = a_world(a_pool("boss").wants("h100", or_else="l4"), H100, L4, node, a_node("b", "l4"), a_pod("boss", "h100", "a"), workloads=workloads(h100=1))
    assert desired(decide(world)) == {"h100": 1, "l4": 0}


def test_scale_down_takes_the_least_preferred_first() -> None:
    pods = [a_pod("boss", "h100", "a"), a_pod("boss", "l4", "b"), a_pod("boss", "l4", "b", index=1)]
    world = a_world(
        a_pool("boss").wants("h100", or_else="l4").replicas(2), H100, L4, a_node("a", "h100"), a_node("b", "l4", 4), *pods, workloads=workloads(h100=1, l4=2)
    )
    assert desired(decide(world)) == {"h100": 1, "l4": 1}


def test_one_replica_returns_at_a_time() -> None:
    classes = [H100, L4, a_class("t4")]
    nodes = [a_node("a", "h100", allocatable=0), a_node("b", "l4", allocatable=0), a_node("c", "t4", 4)]
    fleet = FakeFleet([a_pool("boss").wants("h100", "l4", or_else="t4").replicas(2).build()], classes, nodes)
    fleet.settle()
    for node in ("a", "b"):
        fleet.set_devices(node, 1)
    fleet.settle()
    fleet.pass_time(600)
    for _ in range(3):
        fleet.act(plan_fleet(fleet.world()))
        assert [fleet.desired("boss", f) for f in ("h100", "l4", "t4")] == [1, 0, 2]
    fleet.settle()
    assert [fleet.ready("boss", f) for f in ("h100", "l4", "t4")] == [1, 1, 0]


def test_holders_keep_their_device_and_the_rest_goes_by_key() -> None:
    fleet = FakeFleet([a_pool(n).wants("h100", or_else="l4").build() for n in ("b", "c")], [H100, L4], [a_node("x", "h100"), a_node("y", "l4", 4)])
    fleet.settle()
    assert (fleet.ready("b", "h100"), fleet.ready("c", "l4")) == (1, 1)
    fleet.pools["apps/a"] = a_pool("a").wants("h100", or_else="l4").build()
    fleet.settle()
    assert (fleet.ready("a", "l4"), fleet.ready("b", "h100")) == (1, 1)


def test_a_promised_device_is_not_given_to_a_pool_whose_key_comes_first() -> None:
    promised = (Workload("apps", "b-h100", "b", "h100", 1),)
    world = a_world(a_pool("a").wants("h100"), a_pool("b").wants("h100"), H100, a_node("x", "h100"), workloads=promised)
    assert desired(decide(world, "apps/b")) == {"h100": 1}
    assert decide(world, "apps/a").flavor("h100").message == "1 of 1 devices free (h100), promised to other replicas since 12:00"


def test_cpu_flavors_take_their_cpu_request_or_their_cores() -> None:
    cpu = a_class("cpu", "0.04", resource="cpu")
    small = a_pool("boss").on("cpu", "cpu", engine={"resources": {"requests": {"cpu": "500m"}}}).replicas(9)
    assert desired(decide(a_world(small, cpu, a_cpu_node("n", 4, reserved_milli=100)))) == {"cpu": 7}
    assert desired(decide(a_world(a_pool("boss").on("cpu", "cpu", devices=2).replicas(9), cpu, a_cpu_node("n", 4, reserved_milli=100)))) == {"cpu": 1}


def test_a_paused_pool_stays_as_it_is() -> None:
    plan = plan_fleet(a_world(a_pool("boss").wants("h100").replicas(3).paused(), H100, a_node("a", "h100", 4), workloads=workloads(h100=1)))
    assert (plan.children, plan.held) == ((), {"apps/boss"})
    (status,) = [s.status for s in plan.statuses if s.kind == "ModelPool"]
    assert status["flavors"][0]["desired"] == 1


def test_recheck_comes_with_the_soonest_timer_and_not_at_all_without() -> None:
    pool = a_pool("boss").wants("h100")
    assert plan_fleet(a_world(pool, H100, a_node("a", "h100"))).recheck_after is None
    stuck = a_pod("boss", "h100", unschedulable_since=NOON - timedelta(seconds=80))
    assert plan_fleet(a_world(pool, H100, a_node("a", "h100"), stuck, workloads=workloads(h100=1))).recheck_after == 10
    soon = replace(stuck, unschedulable_since=NOON - timedelta(seconds=89.9))
    assert plan_fleet(a_world(pool, H100, a_node("a", "h100"), soon, workloads=workloads(h100=1))).recheck_after == 1


def test_a_return_that_gets_stuck_leaves_the_old_replica_serving() -> None:
    fleet = FakeFleet([a_pool("boss").wants("h100", or_else="l4").build()], [H100, L4], [a_node("a", "h100", allocatable=0), a_node("b", "l4", 2)])
    fleet.settle()
    fleet.nodes["a"] = replace(fleet.nodes["a"], allocatable={GPU: 1, "cpu": 16_000}, labels={"device": "h100"})
    fleet._label = lambda node, value: None  # type: ignore[method-assign]  # the pods cannot be scheduled: their node is never labelled
    fleet.act(plan_fleet(fleet.world()))
    fleet.pass_time(600)
    for _ in range(3):
        fleet.act(plan_fleet(fleet.world()))
        fleet.work()
    assert fleet.reason("boss", "h100") == "MigratingBack"
    fleet.pass_time(90)
    for _ in range(3):
        fleet.act(plan_fleet(fleet.world()))
        fleet.work()
        assert fleet.ready("boss", "l4") == 1
    assert fleet.reason("boss", "h100") == "PendingTimeout"
    assert fleet.desired("boss", "h100") == 0


def rounds(fleet: FakeFleet, count: int = 1) -> None:
    for _ in range(count):
        fleet.act(plan_fleet(fleet.world()))
        fleet.work()


def condition(fleet: FakeFleet, type_: str) -> tuple[str, str, str]:
    found = next(c for c in fleet.pools["apps/boss"].status.conditions if c.type == type_)
    return found.status, found.reason, found.message


def revisions(fleet: FakeFleet, flavor: str) -> set[str]:
    return {p.revision for p in fleet.pods.values() if p.flavor == flavor}


def a_rollout_on_a_full_class(pool: PoolBuilder, *more: Node) -> FakeFleet:
    replicas = pool.build().spec.replicas
    fleet = FakeFleet([pool.build()], [H100, L4], [a_node("a", "h100", replicas), *more])
    fleet.settle()
    assert fleet.ready("boss", "h100") == replicas
    fleet.drains = True
    fleet.new_revision("boss", "--new")
    rounds(fleet, 3)
    return fleet


def test_a_rollout_with_a_free_device_surges() -> None:
    fleet = FakeFleet([a_pool("boss").wants("h100").build()], [H100], [a_node("a", "h100", 2)])
    fleet.settle()
    (old,) = revisions(fleet, "h100")
    fleet.new_revision("boss", "--new")
    while old in revisions(fleet, "h100"):
        rounds(fleet)
        assert fleet.ready("boss") >= 1
        assert fleet.surges("boss", "h100")
    assert fleet.reason("boss", "h100") == "Preferred"


@pytest.mark.parametrize("replicas", [1, 3])
def test_a_rollout_on_a_full_class_waits_and_then_replaces_in_place(replicas: int) -> None:
    fleet = a_rollout_on_a_full_class(a_pool("boss").wants("h100", or_else="l4").replicas(replicas), a_node("b", "l4", 0))
    (old,) = {p.revision for p in fleet.pods.values() if p.ready}
    fleet.pass_time(89)
    rounds(fleet)
    assert fleet.surges("boss", "h100")
    assert condition(fleet, "Progressing") == ("True", "Converging", "h100: a new revision is on its way")
    fleet.pass_time(1)
    rounds(fleet)
    assert fleet.reason("boss", "h100") == "RolloutWaitsForDevice"
    modes = []
    for _ in range(8 * replicas):
        ready = fleet.ready("boss")
        fleet.act(plan_fleet(fleet.world()))
        modes.append(fleet.surges("boss", "h100"))
        assert ready >= replicas - 1
        assert (fleet.desired("boss", "h100"), fleet.desired("boss", "l4")) == (replicas, 0)
        if ready < replicas:
            assert condition(fleet, "Degraded")[:2] == ("True", "RolloutWaitsForDevice")
            assert condition(fleet, "Progressing")[:2] == ("True", "RolloutWaitsForDevice")
        fleet.work()
        fleet.pass_time(30)
        fleet.drained()
    assert old not in revisions(fleet, "h100")
    assert modes == sorted(modes), "in place once, and surging again once, when it is over"
    assert fleet.surges("boss", "h100")
    assert fleet.reason("boss", "h100") == "Preferred"
    assert fleet.events.count("boss: RolloutWaitsForDevice") == 1
    assert fleet.events.count("boss: PendingTimeout") == 0


def test_a_drain_that_lasts_longer_than_the_pending_timeout_moves_nobody() -> None:
    fleet = a_rollout_on_a_full_class(a_pool("boss").wants("h100", or_else="l4"), a_node("b", "l4", 0))
    fleet.pass_time(90)
    rounds(fleet, 3)
    assert fleet.ready("boss") == 0
    fleet.set_devices("b", 1)
    for _ in range(5):
        fleet.pass_time(300)
        rounds(fleet)
        assert fleet.desired("boss", "h100") == 1
        assert fleet.reason("boss", "h100") == "RolloutWaitsForDevice"
    fleet.drained()
    fleet.act(plan_fleet(fleet.world()))  # the device is free and the scheduler has not looked yet
    assert fleet.reason("boss", "h100") == "RolloutWaitsForDevice"
    rounds(fleet, 4)
    assert fleet.ready("boss", "h100") == 1


def test_a_new_revision_that_fits_nowhere_gives_way_after_its_own_time() -> None:
    fleet = a_rollout_on_a_full_class(a_pool("boss").wants("h100", or_else="l4").replicas(2), a_node("b", "l4", 0))
    fleet.pass_time(90)
    rounds(fleet, 3)
    fleet._schedule = lambda: None  # type: ignore[method-assign]  # the new revision asks for more memory than there is
    fleet.drained()
    rounds(fleet)
    fleet.set_devices("b", 1)
    fleet.pass_time(89)
    rounds(fleet)
    assert fleet.desired("boss", "h100") == 2
    fleet.pass_time(1)
    rounds(fleet, 3)
    assert fleet.reason("boss", "h100") == "PendingTimeout"
    assert (fleet.desired("boss", "h100"), fleet.desired("boss", "l4")) == (1, 1)
    assert fleet.surges("boss", "h100"), "the old replica that is left stays"
    assert fleet.ready("boss", "h100") == 1


def test_a_later_flavor_with_room_covers_for_the_rollout_and_leaves_again() -> None:
    fleet = a_rollout_on_a_full_class(a_pool("boss").wants("h100", or_else="l4").replicas(2).between(0, 2), a_node("b", "l4", 2))
    (old,) = {p.revision for p in fleet.pods.values() if p.ready}
    fleet.pass_time(90)
    fleet.act(plan_fleet(fleet.world()))
    assert (fleet.desired("boss", "h100"), fleet.desired("boss", "l4")) == (2, 1)
    assert fleet.surges("boss", "h100"), "not before the cover serves"
    assert fleet.reason("boss", "h100") == "RolloutWaitsForDevice"
    assert "l4 starts one replica more" in condition(fleet, "Progressing")[2]
    for _ in range(16):
        fleet.work()
        assert fleet.ready("boss") >= 2
        fleet.pass_time(30)
        fleet.drained()
        fleet.act(plan_fleet(fleet.world()))
    assert old not in revisions(fleet, "h100")
    assert (fleet.ready("boss", "h100"), fleet.desired("boss", "l4")) == (2, 0)
    assert fleet.surges("boss", "h100")


def test_an_endpoint_covers_at_once() -> None:
    fleet = a_rollout_on_a_full_class(a_pool("boss").wants("h100").or_endpoint())
    fleet.pass_time(90)
    fleet.act(plan_fleet(fleet.world()))
    assert not fleet.surges("boss", "h100")
    assert fleet.desired("boss", "remote") == 1
    for _ in range(8):
        rounds(fleet)
        assert condition(fleet, "Degraded")[0] == "False"
        fleet.drained()
    assert (fleet.ready("boss", "h100"), fleet.desired("boss", "remote")) == (1, 0)


def test_one_flavor_of_a_pool_is_replaced_in_place_at_a_time() -> None:
    fleet = FakeFleet([a_pool("boss").wants("h100", or_else="l4").replicas(2).build()], [H100, L4], [a_node("a", "h100"), a_node("b", "l4")])
    fleet.settle()
    fleet.drains = True
    fleet.new_revision("boss", "--new")
    rounds(fleet, 3)
    fleet.pass_time(90)
    for _ in range(20):
        rounds(fleet)
        assert fleet.ready("boss") >= 1
        assert fleet.surges("boss", "h100") or fleet.surges("boss", "l4")
        fleet.drained()
    assert [len(revisions(fleet, f)) for f in ("h100", "l4")] == [1, 1]
    assert (fleet.ready("boss"), fleet.surges("boss", "h100"), fleet.surges("boss", "l4")) == (2, True, True)


def test_a_revision_that_does_not_come_up_can_be_taken_back() -> None:
    fleet = a_rollout_on_a_full_class(a_pool("boss").wants("h100"))
    (good,) = {p.revision for p in fleet.pods.values() if p.ready}
    fleet.pass_time(90)
    rounds(fleet, 2)
    fleet.drained()
    fleet._schedule()
    fleet.pods = {u: replace(p, waiting_reason="CrashLoopBackOff", restarts=9) if p.revision != good else p for u, p in fleet.pods.items()}
    fleet.pass_time(300)
    rounds(fleet, 2)
    assert fleet.reason("boss", "h100") == "CrashLooping"
    fleet.change_spec("boss", engine={"type": "LlamaCpp"})
    rounds(fleet, 3)
    fleet.pass_time(90)
    for _ in range(6):
        rounds(fleet)
        fleet.drained()
    assert (fleet.ready("boss"), revisions(fleet, "h100")) == (1, {good})


def test_a_surge_pod_that_is_refused_a_free_device_stops_nobody() -> None:
    old, new = a_pod("boss", "h100", "a", revision="old"), a_pod("boss", "h100", index=1, revision="new", unschedulable_since=NOON - timedelta(hours=1))
    new = replace(new, unschedulable_message="Insufficient memory")
    plan = plan_fleet(a_world(a_pool("boss").wants("h100"), H100, a_node("a", "h100", 2), old, new, workloads=workloads(h100=1)))
    (deployment,) = [c for c in plan.children if c["kind"] == "Deployment"]
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    (status,) = [s.status for s in plan.statuses if s.kind == "ModelPool"]
    assert "Insufficient memory" in next(c["message"] for c in status["conditions"] if c["type"] == "Progressing")


def deployments(fleet: FakeFleet) -> set[str]:
    return {c["metadata"]["name"] for c in fleet._deployments()}


def test_a_flavor_that_leaves_the_spec_serves_until_the_others_do() -> None:
    fleet = FakeFleet([a_pool("boss").wants("h100").replicas(2).build()], [H100, L4], [a_node("a", "h100", 2), a_node("b", "l4", 2)])
    fleet.settle()
    fleet.change_spec("boss", flavors=[{"name": "l4", "acceleratorClass": "l4"}])
    plan = plan_fleet(fleet.world())
    assert plan.held_flavors == {"apps/boss/h100"}
    fleet.act(plan)
    assert "boss-h100" in deployments(fleet)
    assert condition(fleet, "Ready") == ("True", "Serving", "0 of 2 replicas ready; h100 serves until they are")
    assert condition(fleet, "Degraded")[0] == "False"
    assert fleet.pools["apps/boss"].status.flavor_summary == "l4:2 h100:2"
    for _ in range(4):
        fleet.work()
        assert fleet.ready("boss") >= 2
        fleet.act(plan_fleet(fleet.world()))
    assert (deployments(fleet), fleet.ready("boss", "l4"), fleet.ready("boss")) == ({"boss-l4"}, 2, 2)


@pytest.mark.parametrize(("fresh", "down", "held"), [(True, False, False), (True, True, True), (False, False, True)])
def test_a_reachable_endpoint_lets_a_removed_flavor_go(fresh: bool, down: bool, held: bool) -> None:
    fleet = FakeFleet([a_pool("boss").wants("h100").build()], [H100], [a_node("a", "h100")])
    fleet.settle()
    fleet.telemetry_fresh = fresh
    fleet.down = {("apps/boss", "remote")} if down else set()
    fleet.change_spec("boss", flavors=list(a_pool("boss").or_endpoint().flavors))
    fleet.settle()
    assert ("boss-h100" in deployments(fleet)) is held


def test_a_removed_flavor_that_serves_nobody_or_is_not_wanted_goes_at_once() -> None:
    for node, replicas in ((None, 1), ("a", 0)):
        pod = a_pod("boss", "h100", node)
        world = a_world(a_pool("boss").wants("l4").replicas(replicas), H100, L4, a_node("a", "h100"), pod, workloads=workloads(h100=1))
        assert plan_fleet(world).held_flavors == set()


def test_a_removed_flavor_stays_while_nobody_can_replace_it_and_goes_when_it_is_in_the_way_of_its_own_successor() -> None:
    fleet = FakeFleet([a_pool("boss").wants("h100").build()], [H100, L4], [a_node("a", "h100"), a_node("b", "l4", 0)])
    fleet.settle()
    fleet.change_spec("boss", flavors=[{"name": "l4", "acceleratorClass": "l4"}])
    fleet.settle()
    assert fleet.ready("boss", "h100") == 1
    fleet.change_spec("boss", flavors=[{"name": "renamed", "acceleratorClass": "h100"}])
    fleet.settle()
    assert (deployments(fleet), fleet.ready("boss", "renamed")) == ({"boss-renamed"}, 1)


def test_replicas_are_kept_within_the_bounds_of_scaling() -> None:
    pool = a_pool("boss").wants("h100").between(2, 3).build()
    for asked, given in ((0, 2), (2, 2), (9, 3)):
        clamped = pool.model_copy(update={"spec": pool.spec.model_copy(update={"replicas": asked})})
        assert decide(a_world(clamped, H100, a_node("a", "h100", 8))).wanted == given


def test_a_flavor_with_a_max_of_zero_is_passed_over_and_says_so() -> None:
    decision = decide(a_world(a_pool("boss").on("h100", "h100", max=0).wants("l4"), H100, L4, a_node("a", "h100", 4), a_node("b", "l4")))
    assert desired(decision) == {"h100": 0, "l4": 1}
    assert (decision.flavor("h100").reason, decision.flavor("h100").message) == ("AtMax", "at its max of 0")


def test_eight_flavors_fill_in_order() -> None:
    names = [f"c{i}" for i in range(8)]
    pool, classes = a_pool("boss").wants(*names).replicas(7), [a_class(n) for n in names]
    decision = decide(a_world(pool, *classes, *[a_node(f"n-{n}", n) for n in names]))
    assert desired(decision) == dict.fromkeys(names[:7], 1) | {"c7": 0}
    assert reasons(decision) == {"c0": "Preferred"} | dict.fromkeys(names[1:7], "Fallback") | {"c7": "Standby"}


def test_a_pool_of_endpoints_alone_has_no_children() -> None:
    fleet = FakeFleet([a_pool("boss").or_endpoint("first").or_endpoint("second").build()], [], [])
    fleet.settle()
    assert not fleet.children
    assert (fleet.desired("boss", "first"), fleet.desired("boss", "second")) == (1, 0)
    assert condition(fleet, "Ready") == ("True", "EndpointServing", "first serves")
    fleet.down = {("apps/boss", "first")}
    fleet.settle()
    assert (fleet.desired("boss", "first"), fleet.desired("boss", "second")) == (0, 1)
    assert condition(fleet, "Ready") == ("True", "EndpointServing", "second serves")
    fleet.down |= {("apps/boss", "second")}
    fleet.settle()
    assert condition(fleet, "Ready")[:2] == ("False", "NothingReady")


def test_an_endpoint_before_pods_holds_everything_until_it_is_down() -> None:
    fleet = FakeFleet([a_pool("boss").or_endpoint().wants("l4").replicas(2).build()], [L4], [a_node("b", "l4", 2)])
    fleet.settle()
    assert (fleet.desired("boss", "remote"), fleet.ready("boss")) == (2, 0)
    fleet.down = {("apps/boss", "remote")}
    fleet.settle()
    assert (fleet.desired("boss", "remote"), fleet.ready("boss")) == (0, 2)
    fleet.down = set()
    fleet.settle()
    fleet.pass_time(600)
    fleet.settle()
    assert (fleet.desired("boss", "remote"), fleet.ready("boss")) == (2, 0)


@pytest.mark.parametrize(("remote", "answers"), [(False, "nothing answers"), (True, "remote answers what still comes")])
def test_zero_replicas_stop_the_pods_and_nothing_is_called_serving(remote: bool, answers: str) -> None:
    pool = a_pool("boss").wants("h100")
    fleet = FakeFleet([(pool.or_endpoint() if remote else pool).build()], [H100], [a_node("a", "h100")])
    fleet.settle()
    fleet.change_spec("boss", replicas=0)
    fleet.settle()
    assert (fleet.ready("boss"), fleet.desired("boss", "remote")) == (0, 0)
    assert condition(fleet, "Ready") == ("True", "ScaledToZero", f"0 replicas are wanted; {answers}")
    assert condition(fleet, "Degraded")[0] == "False"
    assert condition(fleet, "Progressing")[0] == "False"
    status = fleet.pools["apps/boss"].status
    assert (status.ready, status.flavor_summary, status.decision_reason) == ("0/0", "-", "ScaledToZero")
    assert {f.reason for f in status.flavors} == {"Standby"}
