"""Status of a team: each condition with its words, figures from the bounds, what kstatus makes of it, and events that are told once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.api.door import CHAIN, TEAM, but
from tests.support.builders import NOON, a_policy, a_pool, a_world

from modelfleet.api.parse import InvalidObject, parse
from modelfleet.api.v1alpha1 import AgentTeam, ModelPool
from modelfleet.core.plan import Event
from modelfleet.core.reconcile import plan_fleet
from modelfleet.core.status.agentteam import largest_input
from modelfleet.core.teams.compile import compile_teams
from modelfleet.core.world import Gateway, World

LATER = NOON + timedelta(hours=1)


def a_team(base: dict[str, Any] = TEAM, *, status: dict[str, Any] | None = None, **changes: Any) -> AgentTeam:
    return AgentTeam.model_validate(but({**base, "status": status or {}}, metadata__uid="u-1", metadata__generation=3, **changes))


def small(price: str | None = "0.20", *, ready: int = 1, seen: bool = True) -> ModelPool:
    told = [{"flavor": "l4", "inputPerMillion": "0.02", "outputPerMillion": price}] if price else []
    status = {"observedGeneration": 1 if seen else -1, "flavors": [{"name": "l4", "ready": ready, "reason": "Preferred"}], "price": told}
    return a_pool("small", "default").wants("l4").with_status(status).build()


def boss(**seen: Any) -> ModelPool:
    return (
        a_pool("boss", "default").or_endpoint().with_status({"observedGeneration": 1, "flavors": [{"name": "remote", "reason": "Preferred", **seen}]}).build()
    )


def a_fleet(team: AgentTeam, *others: Any, now: Any = NOON, **fields: Any) -> World:
    return a_world(team, *(others or (small(), boss(), a_policy("assistant", "boss", "small", namespace="default"))), now=now, **fields)


def status_of(world: World) -> dict[str, Any]:
    (status,) = [s.status for s in plan_fleet(world).statuses if s.kind == "AgentTeam"]
    return dict(status)


def events_of(world: World) -> list[Event]:
    return [e for e in plan_fleet(world).events if e.kind == "AgentTeam"]


def said(status: dict[str, Any], type_: str) -> tuple[str, str, str]:
    condition = next(c for c in status["conditions"] if c["type"] == type_)
    return condition["status"], condition["reason"], condition["message"]


def programmed(status: str = "True", reason: str = "Programmed", message: str = "", generation: int = 3) -> dict[str, Any]:
    """What the team runtime wrote."""
    return {"type": "Programmed", "status": status, "reason": reason, "message": message, "lastTransitionTime": NOON, "observedGeneration": generation}


def loaded(base: dict[str, Any] = TEAM, **changes: Any) -> AgentTeam:
    return a_team(base, status={"conditions": [programmed()]}, **changes)


def kstatus(status: dict[str, Any], generation: int) -> str:
    """What kstatus computes of an object: `observedGeneration`, then Stalled, Reconciling, Ready."""
    if status.get("observedGeneration") != generation:
        return "InProgress"
    now = {c["type"]: c["status"] for c in status["conditions"]}
    if now.get("Stalled") == "True":
        return "Failed"
    return "InProgress" if now.get("Reconciling") == "True" or now.get("Ready") != "True" else "Current"


def test_a_team_that_runs() -> None:
    status = status_of(a_fleet(loaded()))
    assert kstatus(status, 3) == "Current"
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Accepted": "True", "Priced": "True", "Ready": "True", "Reconciling": "False", "ResolvedRefs": "True", "Stalled": "False",
    }  # fmt: skip
    assert all(c["observedGeneration"] == 3 for c in status["conditions"])
    conditions = status.pop("conditions")
    assert [c["type"] for c in conditions] == sorted(c["type"] for c in conditions)
    assert status.pop("revision").startswith("r-")
    assert status.pop("bounds")["maxModelCalls"] == 1 + 200 * 2 + 13 + 1
    assert status == {
        "observedGeneration": 3,
        "strategy": "mapReduce",
        "modelNames": ["default/readers", "readers"],
        "roles": [
            {
                "name": "boss",
                "target": "policy:default/assistant",
                "ready": True,
                "candidates": 2,
                "worstPrice": {"inputPerMillion": "0.20", "outputPerMillion": "0.60"},
            },
            {
                "name": "reader",
                "target": "pool:default/small",
                "ready": True,
                "candidates": 1,
                "worstPrice": {"inputPerMillion": "0.02", "outputPerMillion": "0.20"},
            },
        ],
    }


def test_worst_is_of_the_largest_input_and_minimum_of_the_smallest() -> None:
    bounds = status_of(a_fleet(loaded()))["bounds"]
    half = status_of(a_fleet(loaded(spec__strategy__mapReduce__split__maxItems=100)))["bounds"]
    assert 0 < float(bounds["minimumCost"]) < float(half["worstCost"]) < float(bounds["worstCost"])
    assert half["minimumCost"] == bounds["minimumCost"]
    plans = compile_teams([a_team(), a_team(CHAIN)], [small(), boss()], [a_policy("assistant", namespace="default")]).teams
    # 200 parts of 800 tokens, each but the first 80 into the one before it; four bytes a token
    assert largest_input(plans["default/readers"]).context_bytes == (200 * 800 - 199 * 80) * 4
    assert largest_input(plans["default/writers"]).context_bytes == 256 * 1024


def test_until_the_runtime_has_loaded_it_a_team_is_on_its_way() -> None:
    for conditions in (
        [],
        [programmed(generation=2)],
        [programmed("False", "Pending", "no gateway yet")],
        [programmed("False", "RuntimeUnavailable", "no journal")],
    ):
        status = status_of(a_fleet(a_team(status={"conditions": conditions})))
        assert kstatus(status, 3) == "InProgress"
        assert said(status, "Ready")[0] == "False"
        assert said(status, "Ready")[1:] == said(status, "Reconciling")[1:]
        assert said(status, "Stalled") == ("False", "NotStalled", "")
    assert said(status, "Ready")[1:] == ("RuntimeUnavailable", "no journal")
    assert "Programmed" not in {c["type"] for c in status["conditions"]}, "the runtime's condition is read, never written"


def test_what_the_gateway_rejects_is_stalled() -> None:
    status = status_of(a_fleet(a_team(status={"conditions": [programmed("False", "GatewayRejected", "gw-0: no such cluster")]})))
    assert said(status, "Stalled") == ("True", "GatewayRejected", "gw-0: no such cluster")
    assert kstatus(status, 3) == "Failed"


def test_a_refused_team_stalls_with_its_faults() -> None:
    status = status_of(a_fleet(loaded(spec__strategy__mapReduce__map__dropWhen__field="useful")))
    fault = "strategy.mapReduce.map.dropWhen.field: useful is not in the properties of role reader's outputSchema"
    for type_, word in (("Accepted", "False"), ("Ready", "False"), ("Stalled", "True")):
        assert said(status, type_) == (word, "InvalidStrategy", fault)
    assert said(status, "Priced") == ("Unknown", "Pending", "known once the team is accepted and its references resolve")
    assert said(status, "Reconciling")[0] == "False"
    assert kstatus(status, 3) == "Failed"
    assert "revision" not in status
    assert "bounds" not in status
    assert [role["name"] for role in status["roles"]] == ["boss", "reader"]


def test_a_missing_reference_stalls() -> None:
    status = status_of(a_fleet(loaded(), small(), boss()))
    assert said(status, "ResolvedRefs") == ("False", "PolicyNotFound", "no such RoutingPolicy: default/assistant (roles[boss].modelFrom)")
    assert said(status, "Accepted")[0] == "True"
    assert kstatus(status, 3) == "Failed"


def test_a_suspended_team_is_as_its_owner_wants_it() -> None:
    status = status_of(a_fleet(loaded(spec__suspend=True)))
    assert said(status, "Accepted")[:2] == ("True", "Suspended")
    assert said(status, "Ready")[:2] == ("True", "Suspended")
    assert kstatus(status, 3) == "Current"


# --- money ---


def test_a_candidate_without_a_price_is_named_with_its_cure() -> None:
    status = status_of(a_fleet(loaded(), small(None), boss(), a_policy("assistant", "boss", "small", namespace="default")))
    told = "no price is known of default/small flavor l4: a price on its AcceleratorClass and capacity.tokensPerSecond on the flavor give one"
    assert said(status, "Priced") == ("False", "PriceUnknown", told)
    assert said(status, "Ready") == ("False", "PriceUnknown", told)
    assert kstatus(status, 3) == "Failed"
    assert "worstCost" not in status["bounds"]
    assert [role.get("worstPrice") for role in status["roles"]] == [None, None]


def test_a_price_that_the_operator_has_not_worked_out_yet_is_waited_for() -> None:
    status = status_of(a_fleet(loaded(), small(None, seen=False), boss(), a_policy("assistant", "boss", "small", namespace="default")))
    assert said(status, "Priced")[:2] == ("False", "PriceUnknown")
    assert kstatus(status, 3) == "InProgress"


def test_a_policy_that_leads_nowhere() -> None:
    status = status_of(a_fleet(loaded(), small(), a_policy("assistant", "nobody", namespace="default")))
    assert said(status, "Priced") == ("False", "PriceUnknown", "nothing is behind boss: no ModelPool of its RoutingPolicy exists")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cost": "0.0005"}, "with onExhausted Finalize each run sets aside one last call of role boss, "),
        ({"cost": None, "tokens": 900}, "tokens; budget.perRun.tokens is 900: raise it, lower the role's sampling.maxTokens, or choose Fail"),
        ({"cost": "0.000001"}, "a run costs 0.000002 at least, budget.perRun.cost is 0.000001"),
        ({"modelCalls": 1}, "calls at least, budget.perRun.modelCalls is 1"),
    ],
)
def test_a_budget_that_lets_no_run_end(changes: dict[str, Any], told: str) -> None:
    team = loaded(**{f"spec__budget__perRun__{name}": value for name, value in changes.items()})
    status = status_of(a_fleet(team))
    assert said(status, "Priced")[:2] == ("False", "BudgetBelowMinimum")
    assert told in said(status, "Priced")[2]
    assert kstatus(status, 3) == "Failed"


def test_without_a_finalizing_call_nothing_is_set_aside() -> None:
    team = loaded(spec__budget__perRun__cost="0.0005", spec__budget__onExhausted="Fail")
    assert said(status_of(a_fleet(team)), "Priced")[0] == "True"


# --- roles ---


def test_a_role_that_nobody_can_answer_for_is_waited_for() -> None:
    status = status_of(a_fleet(loaded(), small(ready=0), boss(reachable=True), a_policy("assistant", "boss", namespace="default")))
    assert [(role["name"], role["ready"]) for role in status["roles"]] == [("boss", True), ("reader", False)]
    assert said(status, "Ready") == ("False", "RoleUnavailable", "nothing can answer for reader now")
    assert kstatus(status, 3) == "InProgress"


# --- change ---


def test_an_hour_later_nothing_is_written() -> None:
    world = a_fleet(loaded())
    first = status_of(world)
    conditions = [*first["conditions"], programmed()]
    again = a_fleet(a_team(status={**first, "conditions": conditions}), now=LATER)
    assert status_of(again) == first
    assert events_of(again) == []


def test_events_of_a_team() -> None:
    (compiled,) = events_of(a_fleet(loaded()))
    assert (compiled.type, compiled.reason, compiled.name, compiled.uid) == ("Normal", "Compiled", "readers", "u-1")
    status = status_of(a_fleet(loaded()))
    assert compiled.message == f"revision {status['revision']}"
    assert [e.reason for e in events_of(a_fleet(a_team(status=status, spec__description="another")))] == ["Compiled"]
    broken: dict[str, Any] = {"spec__strategy__mapReduce__map__dropWhen__field": "useful"}
    (rejected,) = events_of(a_fleet(a_team(status=status, **broken)))
    assert (rejected.type, rejected.reason) == ("Warning", "Rejected")
    assert rejected.message.startswith("strategy.mapReduce.map.dropWhen.field: useful")
    assert events_of(a_fleet(a_team(status=status_of(a_fleet(loaded(**broken))), **broken))) == []


def test_entries_of_gateways_that_are_gone_are_removed_from_teams_as_from_policies() -> None:
    entries = {"gateways": [{"name": "gw-0", "generation": 3}, {"name": "gw-9", "generation": 3}]}
    plan = plan_fleet(a_fleet(a_team(status=entries), a_policy("assistant", namespace="default", status=entries), gateways=(Gateway("gw-0"),)))
    assert [(e.kind, e.namespace, e.name, e.gateway) for e in plan.vanished_gateways] == [
        ("AgentTeam", "default", "readers", "gw-9"),
        ("RoutingPolicy", "default", "assistant", "gw-9"),
    ]


def test_a_team_that_does_not_parse_stalls_alone() -> None:
    broken = parse(AgentTeam, but(TEAM, metadata__generation=2, spec__roles__0__sampling=None))
    assert isinstance(broken, InvalidObject)
    world = a_fleet(loaded(CHAIN), small(), boss(), invalid=(broken,))
    writing = {s.name: s.status for s in plan_fleet(world).statuses if s.kind == "AgentTeam"}
    assert said(dict(writing["writers"]), "Ready")[0] == "True"
    for type_, word in (("Accepted", "False"), ("Ready", "False"), ("Stalled", "True")):
        assert said(dict(writing["readers"]), type_) == (word, "InvalidSpec", "spec.roles[0].sampling: required, but absent")
    assert [(e.name, e.reason) for e in events_of(world) if e.reason != "Compiled"] == [("readers", "InvalidSpec")]


def test_a_team_that_is_being_deleted_is_left_alone() -> None:
    world = a_fleet(loaded(metadata__deletionTimestamp="2026-01-05T12:00:00Z"))
    assert [s for s in plan_fleet(world).statuses if s.kind == "AgentTeam"] == []
    assert events_of(world) == []


def test_the_order_of_the_world_is_no_matter() -> None:
    world = a_fleet(loaded(), small(), boss(), loaded(CHAIN), a_policy("assistant", "boss", "small", namespace="default"), gateways=(Gateway("gw-0"),))
    turned = replace(world, **{part: tuple(reversed(getattr(world, part))) for part in ("teams", "pools", "policies")})
    assert plan_fleet(turned) == plan_fleet(world)
    assert len(world.teams) == len(world.pools) == 2
