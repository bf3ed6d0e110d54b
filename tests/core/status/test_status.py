"""Statuses: times move only with what they time, figures do not flicker, and every reason has its sentence."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.support.builders import NOON, a_class, a_node, a_pod, a_policy, a_pool, a_world

from modelfleet.api.conditions import ConditionType, FlavorReason
from modelfleet.api.parse import InvalidObject, parse
from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.core.clock import Clock
from modelfleet.core.explain_pool import SENTENCES, explain_pool
from modelfleet.core.reconcile import plan_fleet
from modelfleet.core.status.conditions import Finding, merge_conditions
from modelfleet.core.world import Gateway, Served, Telemetry, Workload, World

LATER = NOON + timedelta(hours=1)


def finding(status: bool | None = True, reason: str = "Because", message: str = "") -> Finding:
    return Finding(ConditionType.READY, status, reason, message)


def test_the_time_of_a_condition_moves_only_with_its_status() -> None:
    first = merge_conditions([], [finding()], Clock(NOON), 1)
    same = merge_conditions(first, [finding(reason="Other", message="new words")], Clock(LATER), 2)
    assert (same[0].last_transition_time, same[0].reason, same[0].observed_generation) == (NOON, "Other", 2)
    assert merge_conditions(same, [finding(None)], Clock(LATER), 2)[0].last_transition_time == LATER
    assert merge_conditions(first, [], Clock(LATER), 1) == []
    assert len(merge_conditions([], [finding(message="x" * 5000)], Clock(NOON), 1)[0].message) == 1024


def pool_status(world: World) -> dict[str, Any]:
    (status,) = [s.status for s in plan_fleet(world).statuses if s.kind == "ModelPool"]
    return dict(status)


def with_status(pool: ModelPool, status: dict[str, Any]) -> ModelPool:
    raw = {"metadata": pool.metadata.model_dump(by_alias=True), "spec": pool.spec.model_dump(by_alias=True, exclude_none=True), "status": status}
    return ModelPool.model_validate(raw)


def serving_world(output_tokens: int, now: Any = NOON, *, fresh: bool = True, pool: ModelPool | None = None) -> World:
    served = (Served("apps/boss", "h100", output_tokens, output_tokens, 600.0),) if output_tokens else ()
    boss = pool or a_pool("boss").on("h100", "h100", capacity={"tokensPerSecond": 2500}).build()
    return a_world(
        boss, a_class("h100", "6.88"), a_node("n", "h100"), a_pod("boss", "h100", "n"), now=now,
        workloads=(Workload("apps", "boss-h100", "boss", "h100", 1),), telemetry=Telemetry(served=served, fresh=fresh),
    )  # fmt: skip


def test_figures_are_rounded_and_do_not_flicker() -> None:
    status = pool_status(serving_world(60_000))
    assert (status["tokensPerSecond"], status["cost"]["perHour"], status["cost"]["perMillionTokens"]) == ("100", "6.88", {"live": "9.56"})
    written = with_status(serving_world(1).pools[0], status)
    assert pool_status(serving_world(63_000, LATER, pool=written)) == status
    moved = pool_status(serving_world(90_000, LATER, pool=written))
    assert (moved["tokensPerSecond"], moved["cost"]["perMillionTokens"]["live"]) == ("150", "6.37")


def test_nothing_served_is_absent_and_stale_figures_stay() -> None:
    status = pool_status(serving_world(60_000))
    written = with_status(serving_world(1).pools[0], status)
    assert pool_status(serving_world(0, pool=written))["cost"] == {"currency": "USD", "perHour": "6.88", "perMillionTokens": {}}
    assert pool_status(serving_world(0, pool=written))["tokensPerSecond"] == "0"
    assert pool_status(serving_world(0, pool=written, fresh=False)) == status


def test_a_window_that_has_just_begun_changes_nothing_that_was_known() -> None:
    status = pool_status(serving_world(60_000))
    written = with_status(serving_world(1).pools[0], status)
    world = serving_world(0, pool=written)
    for tokens, window, held in ((0, 1.0, True), (500, 59.9, True), (0, 60.0, False), (500, 60.0, False)):
        short = Telemetry(served=(Served("apps/boss", "h100", tokens, tokens, window),), fresh=True)
        after = pool_status(replace(world, telemetry=short))
        assert (after["tokensPerSecond"] == "100") is held
        assert (after["cost"]["perMillionTokens"] == {"live": "9.56"}) is held
    fresh_pool = replace(world, pools=(serving_world(1).pools[0],), telemetry=Telemetry(served=(Served("apps/boss", "h100", 5, 5, 3.0),), fresh=True))
    assert "tokensPerSecond" not in pool_status(fresh_pool)
    assert pool_status(fresh_pool)["cost"] == {"currency": "USD", "perHour": "6.88", "perMillionTokens": {}}
    later = replace(fresh_pool, telemetry=Telemetry(served=(Served("apps/boss", "h100", 500, 500, 10.0),), fresh=True))
    assert pool_status(later)["tokensPerSecond"] == "50"
    assert "live" in pool_status(later)["cost"]["perMillionTokens"]


def test_the_status_of_a_pool_that_fell_idle_comes_to_rest() -> None:
    written = with_status(serving_world(1).pools[0], pool_status(serving_world(60_000)))
    told = []
    for left in (30_000, 900, 4, 1, 0, 0, 0):
        status = pool_status(replace(serving_world(0, pool=written), telemetry=Telemetry((Served("apps/boss", "h100", 0, left, 600.0),), fresh=True)))
        told.append((status["tokensPerSecond"], status["cost"]["perMillionTokens"].get("live")))
        written = with_status(written, status)
    assert [rate for rate, _ in told] == ["50", "2", "0", "0", "0", "0", "0"]
    assert told[-1] == told[-2] == told[-3] == ("0", None)


def test_no_price_is_no_cost() -> None:
    world = replace(serving_world(1000), classes=(a_class("h100", None),))
    status = pool_status(world)
    assert "cost" not in status
    assert status["price"] == []
    assert "costPerHour" not in status["flavors"][0]


def test_a_status_does_not_depend_on_the_clock() -> None:
    status = pool_status(serving_world(0))
    assert pool_status(serving_world(0, LATER, pool=with_status(serving_world(0).pools[0], status))) == status


def test_an_invalid_object_stalls_once() -> None:
    raw = {"metadata": {"name": "x", "namespace": "apps", "uid": "u", "generation": 2}, "spec": {"replicas": "many"}}
    broken = parse(ModelPool, raw)
    assert isinstance(broken, InvalidObject)
    plan = plan_fleet(World(NOON, invalid=(broken,)))
    (write,) = plan.statuses
    assert [e.reason for e in plan.events] == ["InvalidSpec"]
    assert plan.held == {"apps/x"}
    again = parse(ModelPool, {**raw, "status": write.status})
    assert isinstance(again, InvalidObject)
    second = plan_fleet(World(LATER, invalid=(again,)))
    assert second.statuses == plan.statuses
    assert second.events == ()


def test_a_policy_status_leaves_the_gateways_entries_to_them() -> None:
    entry = {"name": "gw-0", "generation": 1, "version": "v", "acknowledgedAt": "2026-01-05T11:00:00Z"}
    policy = a_policy("assistant", "boss", status={"gateways": [entry]})
    world = a_world(policy, a_pool("boss").wants("h100"), a_class("h100"), a_node("n", "h100"), gateways=(Gateway("gw-0"),))
    plan = plan_fleet(world)
    (status,) = [s.status for s in plan.statuses if s.kind == "RoutingPolicy"]
    assert "gateways" not in status
    assert status["acknowledged"] == "1/1"
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Accepted": "True", "Programmed": "True", "Ready": "True", "Reconciling": "False", "ResolvedRefs": "True", "Stalled": "False",
    }  # fmt: skip
    gone = plan_fleet(replace(world, gateways=()))
    assert [g.gateway for g in gone.vanished_gateways] == ["gw-0"]


def test_every_reason_has_a_sentence() -> None:
    assert set(SENTENCES) == set(FlavorReason)
    assert len(set(SENTENCES.values())) == len(SENTENCES)


def test_explain_says_why_in_words() -> None:
    pool = serving_world(0).pools[0]
    assert explain_pool(pool) == ("apps/boss: nothing is decided yet; is the operator running?",)
    lines = explain_pool(with_status(pool, pool_status(serving_world(0))))
    assert lines[0] == "apps/boss: 1/1 replicas ready on h100:1; 1 of 1 replicas ready"
    assert lines[1] == "  h100 [1 ready of 1] is the first choice and is used"
