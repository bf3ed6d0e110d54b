"""Calls of teams' roles: no grant, no answer; and never a model that could cost more than the grant allows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from tests.support.envoy import a_policy, a_pool, pods, remote

from modelfleet.api.conditions import DecisionReason
from modelfleet.core.grants import Grant, GrantError
from modelfleet.core.routing.bound import PER_CALL, PER_MESSAGE, call_bound
from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.decide import Decision, decide, routing_table
from modelfleet.core.routing.granted import Given
from modelfleet.core.routing.ir import Address, Price, RoutingPlan, RoutingWorld, TeamRoute
from modelfleet.core.routing.request import read_request
from modelfleet.core.teams import tokens
from modelfleet.core.teams.strategies.protocol import Message

FAR = "https://api.example.com/v1"
POOL, POLICY = "pool:shop/small", "policy:shop/p"


def a_grant(target: str = POOL, most: int = 10**9) -> Grant:
    return Grant(team="shop/t", run="r1", role="reader", call="c1", caller="anonymous", target=target, expires=100, max_cost_micro_usd=most)


def a_team(*targets: str) -> TeamRoute:
    return TeamRoute("shop/t", ("shop/t", "t"), 1, "r-1", targets or (POOL, POLICY))


def priced(*names: str, per_million: str = "1") -> list[dict[str, str]]:
    return [{"flavor": name, "inputPerMillion": per_million, "outputPerMillion": per_million} for name in names]


def a_plan(**policy: Any) -> RoutingPlan:
    world = RoutingWorld(
        pools=(a_pool("small", pods(), price=priced("gpu")), a_pool("large", pods(), remote("far", FAR), price=priced("gpu", per_million="4"))),
        policies=(a_policy("p", "small", "large", decided=False, **policy),),
        addresses={f"shop/{n}": (Address("10.0.0.1", 8000, "gpu"),) for n in ("small", "large")},
        teams=(a_team(),),
    )
    return compile_routes(world)


def asked(plan: RoutingPlan, grant: Given, model: str = POOL, **body: Any) -> Decision:
    sent = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100} | body
    raw = json.dumps({k: v for k, v in sent.items() if v is not None}).encode()
    return decide(routing_table(plan), read_request(raw, {}, bounded=True), "d", grant=grant)


def test_targets_are_policies_of_their_own_that_refuse_and_repeat_only_what_cannot_have_been_billed() -> None:
    plan = a_plan(rules=[{"name": "x", "match": {"tools": "Absent"}, "candidates": ["large"]}], fallback={"maxAttempts": 2, "totalTimeout": "9s"})
    found = {p.key: p for p in plan.policies}
    assert sorted(found) == [POLICY, POOL, "shop/p"]
    for key in (POOL, POLICY):
        target = found[key]
        assert (target.granted, target.refuse_when_decider_lost, [e.name for e in target.entrypoints]) == (True, True, [key])
        assert set(target.triggers) == {"Connect", "Status429", "Status503"}
        assert all(route.needs_decider for e in target.entrypoints for route in e.routes)
    assert [c.name for c in found[POOL].candidates] == ["small"]
    assert (found[POLICY].rules, found[POLICY].max_attempts, found[POLICY].total_timeout) == (found["shop/p"].rules, 2, 9.0)
    assert not found["shop/p"].granted


def test_a_target_that_does_not_exist_is_no_route_and_a_name_of_a_policy_is_not_a_teams() -> None:
    world = RoutingWorld(policies=(a_policy("p", "m", entrypoints=["t"]),), teams=(a_team("pool:shop/nix", "policy:shop/nix"),))
    plan = compile_routes(world)
    assert ([p.key for p in plan.policies], [t.names for t in plan.teams]) == (["shop/p"], [("shop/t",)])


@pytest.mark.parametrize(
    ("grant", "body", "status", "says"),
    [
        (None, {}, 403, "needs a grant"),
        (GrantError("the grant has expired"), {}, 403, "expired"),
        (a_grant(POLICY), {}, 403, "another target"),
        (a_grant("pool:shop/large"), {}, 403, "another target"),
        (a_grant(), {"max_tokens": None}, 400, "max_tokens"),
        (a_grant(), {"max_tokens": 0}, 400, "max_tokens"),
        (a_grant(), {"n_predict": 9}, 400, "holds others"),
        (a_grant(), {"tools": [{}]}, 400, "holds others"),
        (a_grant(), {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "text alone"),
        (a_grant(), {"messages": [{"role": "user", "content": "x", "tool_calls": []}]}, 400, "text alone"),
        (a_grant(most=0), {}, 403, "small: this call may cost 185 micro-dollars there, the grant allows 0"),
        (a_grant(most=184), {}, 403, "the grant allows 184"),
        (a_grant(most=284), {"n": 2}, 403, "may cost 285"),
    ],
)
def test_a_call_without_a_good_and_sufficient_grant_is_refused(grant: Given, body: dict[str, Any], status: int, says: str) -> None:
    decision = asked(a_plan(), grant, **body)
    assert decision.refusal is not None
    assert (decision.refusal.status, decision.groups) == (status, ())
    assert says in decision.refusal.message


def test_a_sufficient_grant_opens_what_it_pays_and_nothing_dearer() -> None:
    """At 1, 1.5 and 6, and 4 dollars per million, 85 tokens in and 100 out."""
    small, far, large = {"small"}, {"small", "large/far"}, {"small", "large/far", "large"}
    for most, groups in ((185, small), (727, small), (728, far), (739, far), (740, large)):
        decision = asked(a_plan(), a_grant(POLICY, most), POLICY)
        assert (decision.chain, set(decision.groups)) == (("small", "large")[: min(len(groups), 2)], groups)
        assert DecisionReason.GRANTED in {step.code for step in decision.trail}


def test_what_has_no_price_is_never_called() -> None:
    plan = a_plan()
    plan = replace(plan, prices={("shop/small", "gpu"): Price(1, 1)})
    assert set(asked(plan, a_grant(POLICY), POLICY).groups) == {"small"}
    refused = asked(replace(plan, prices={}), a_grant())
    assert refused.refusal is not None
    assert refused.refusal.message.endswith("small: flavor gpu has no price")


def test_pods_of_a_flavor_that_has_left_its_pool_count_while_they_are_there() -> None:
    """A cluster cannot be asked for some of its pods."""
    plan = a_plan()
    pods_now = tuple(replace(c, addresses=(*c.addresses, Address("10.0.0.2", 8000, "left"))) for c in plan.pod_clusters)
    refused = asked(replace(plan, pod_clusters=pods_now), a_grant())
    assert refused.refusal is not None
    assert refused.refusal.message.endswith("small: flavor left has no price")


def test_a_grant_on_an_ordinary_route_means_nothing() -> None:
    plan = a_plan()
    for shown in (a_grant(most=0), GrantError("x")):
        assert asked(plan, shown, "auto", max_tokens=None) == asked(plan, None, "auto", max_tokens=None)


def test_the_bound_is_the_one_that_the_runtime_reserves_by() -> None:
    assert (PER_MESSAGE, PER_CALL) == (tokens.PER_MESSAGE, tokens.PER_CALL)
    texts = ["plain", 'zwölf \n\t "quoted"', "\U0001f600" * 9]
    schema = json.dumps({"type": "object", "properties": {"a": {"enum": ["ü"]}}}, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    shape = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": json.loads(schema)}}
    for ascii_only in (True, False):
        sent = {"model": "m", "messages": [{"role": "user", "content": t} for t in texts], "max_tokens": 7, "response_format": shape, "stream": True}
        facts = read_request(json.dumps(sent, ensure_ascii=ascii_only).encode(), {}, bounded=True)
        assert facts.bound is not None
        assert facts.bound.input_tokens == tokens.prompt_bound([Message("user", t) for t in texts], schema)
        assert (facts.bound.output_tokens, facts.bound.unbounded) == (7, "")


def test_a_body_that_was_cut_has_no_bound() -> None:
    facts = read_request(b'{"model":"pool:shop/small"', {}, POOL, cut=True, bounded=True)
    decision = decide(routing_table(a_plan()), facts, "d", grant=a_grant())
    assert decision.refusal is not None
    assert (decision.refusal.status, decision.refusal.code) == (413, DecisionReason.BODY_CUT)
    assert call_bound({}).unbounded


# --- laws ---

NAMES = ["a", "b", "c"]
prices = st.none() | st.builds(Price, st.integers(0, 20_000_000), st.integers(0, 20_000_000))


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.tuples(st.sampled_from([f"shop/{n}" for n in NAMES]), st.sampled_from(["gpu", "cpu", "far"])), prices, max_size=9),
    st.integers(0, 3000), st.integers(1, 200), st.integers(1, 3), st.sampled_from(["", "hello", "zwölf " * 30]), st.integers(1, 5),
    st.permutations(NAMES), st.sets(st.sampled_from(NAMES)),
)  # fmt: skip
def test_no_chain_ever_holds_what_the_grant_does_not_pay(tariff, most, answer, choices, text, attempts, order, ready) -> None:
    pools = tuple(a_pool(n, pods(), pods("cpu"), remote("far", FAR)) for n in NAMES)
    policy = a_policy("p", *order, decided=False, fallback={"maxAttempts": attempts})
    targets = (POLICY, *(f"pool:shop/{n}" for n in NAMES))
    world = RoutingWorld(pools, (policy,), {f"shop/{n}": (Address("10.0.0.1", 1, "gpu"),) for n in ready}, teams=(a_team(*targets),))
    known = {key: price for key, price in tariff.items() if price is not None}
    plan = replace(compile_routes(world), prices=known)
    spent = PER_CALL + PER_MESSAGE + len(text.encode())
    for target in targets:
        decision = asked(plan, a_grant(target, most), target, messages=[{"role": "user", "content": text}], max_tokens=answer, n=choices)
        assert bool(decision.groups) != (decision.refusal is not None)
        clusters = dict(next(p.groups for p in plan.policies if p.key == target))
        for group in decision.groups:
            pool, _, flavor = group.partition("/")
            assert clusters[group] == (f"remote/shop/{pool}/{flavor}" if flavor else f"pods/shop/{pool}")
            for name in [flavor] if flavor else ["gpu", "cpu"]:
                price = known[f"shop/{pool}", name]
                assert spent * price.input_per_million + answer * choices * price.output_per_million <= most * 1_000_000
        pays = {key for key, p in known.items() if spent * p.input_per_million + answer * choices * p.output_per_million <= most * 1_000_000}
        there = [f"shop/{n}" for n in NAMES] if target == POLICY else [target.partition(":")[2]]
        assert bool(decision.groups) == any({(pool, "gpu"), (pool, "cpu")} <= pays or (pool, "far") in pays for pool in there)
