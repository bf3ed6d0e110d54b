"""The decider compiled away: which routes need none, and that what they answer is what ``decide`` answers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings, strategies as st
from tests.support.envoy import a_policy, a_pool, pods, remote

from modelfleet.api.v1alpha1 import RoutingPolicy
from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.compiled import compiled_route, facts_of
from modelfleet.core.routing.decide import decide, routing_table
from modelfleet.core.routing.ir import Address, EntrypointRoute, RoutingPlan, RoutingWorld, Watchwords
from modelfleet.core.routing.request import read_request

NAMES = ["a", "b", "c", "d"]
FAR = "https://api.example.com/v1"


def a_plan(*ready: str, candidates=None, **policy) -> RoutingPlan:
    pools = tuple(a_pool(n, pods(), remote("far", FAR)) for n in NAMES)
    made = a_policy("p", *NAMES, decided=False, **({"candidates": candidates} if candidates else {}), **policy)
    return compile_routes(RoutingWorld(pools, (made,), {f"shop/{n}": (Address("10.0.0.1", 8000, "gpu"),) for n in ready}))


def routes(plan: RoutingPlan, entrypoint: int = 0) -> tuple[EntrypointRoute, ...]:
    return plan.policies[0].entrypoints[entrypoint].routes


def rule(name: str, headers: dict[str, str] | None = None, *, candidates=None, weights=None, **match) -> dict[str, object]:
    named = {"headers": [{"name": k, "value": v} for k, v in headers.items()]} if headers else {}
    return {"name": name, "match": {**named, **match}} | ({"candidates": candidates} if candidates else {}) | ({"weights": weights} if weights else {})


HALVES = [{"candidate": "a", "percent": 50}, {"candidate": "b", "percent": 50}]
ALL = [{"candidate": "a", "percent": 0}, {"candidate": "b", "percent": 100}]


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([], [("", "", False)]),
        ([rule("x", {"h": "1"})], [("h", "x", False), ("", "", False)]),
        ([rule("x")], [("", "x", False)]),
        ([rule("x"), rule("never", {"h": "1"})], [("", "x", False)]),
        ([rule("x", inputTokens={"max": 9})], [("", "", True)]),
        ([rule("x", tools="Absent")], [("", "", True)]),
        ([rule("x", {"h": "1"}, tools="Present"), rule("y", {"i": "1"})], [("h", "", True), ("i", "y", False), ("", "", False)]),
        ([rule("y", {"i": "1"}), rule("x", tools="Present")], [("i", "y", False), ("", "", True)]),
        ([rule("x", {"h": "1"}, tools="Present"), rule("x2", tools="Present")], [("", "", True)]),
        ([rule("x", weights=HALVES)], [("", "", True)]),
        ([rule("x", {"h": "1"}, weights=HALVES)], [("h", "", True), ("", "", False)]),
        ([rule("x", weights=ALL)], [("", "x", False)]),
        ([rule("x", {"authorization": "1"})], [("", "", True)]),
        ([rule("x", {"host": "1"})], [("", "", True)]),
        ([rule("x", {"x-modelfleet-session": "1"})], [("", "", True)]),
        ([rule(f"r{i}", {"h": str(i)}) for i in range(9)], [*(("h", f"r{i}", False) for i in range(7)), ("", "", True)]),
    ],
)
def test_a_route_keeps_the_decider_where_its_answer_depends_on_more_than_name_and_headers(rules, told) -> None:
    found = routes(a_plan("a", rules=rules))
    assert [(",".join(n for n, _ in r.headers), r.rule, r.needs_decider) for r in found] == told


def test_a_pinned_rule_is_the_whole_answer() -> None:
    plan = a_plan("a", "b", rules=[rule("x", tools="Present", candidates=["b"])], entrypoints=["auto"])
    assert routes(plan)[0].needs_decider
    policy = a_policy("p", *NAMES, decided=False, rules=[rule("x", tools="Present", candidates=["b"])])
    pinned = [{"name": "auto", "rule": "x"}]
    raw = policy.model_dump(by_alias=True)
    policy = RoutingPolicy.model_validate(raw | {"spec": raw["spec"] | {"entrypoints": pinned}})
    plan = compile_routes(RoutingWorld(tuple(a_pool(n) for n in NAMES), (policy,)))
    assert [(r.rule, r.needs_decider, r.chain[0]) for r in routes(plan)] == [("x", False, "b")]


def test_watchwords_are_what_some_candidate_in_reach_cannot_do() -> None:
    can = [{}, {"vision": True}, {"tools": False, "maxContext": 900}, {"json": False, "maxContext": 500}]
    candidates = [{"name": n, "poolRef": {"name": n}, "capabilities": c} for n, c in zip(NAMES, can, strict=True)]
    plan = a_plan(candidates=candidates, chain=["b"], rules=[rule("x", {"h": "1"}, candidates=["b"]), rule("y", {"h": "2"}, candidates=["c", "d"])])
    assert [r.watchwords for r in routes(plan)] == [
        Watchwords(),
        Watchwords(tools=True, json=True, images=True, limit=500),
        Watchwords(),
    ]


def test_nobody_there_needs_the_decider_to_say_so() -> None:
    assert routes(compile_routes(RoutingWorld((), (a_policy("p", "a", decided=False),)))) == (EntrypointRoute(),)


def test_the_chain_follows_the_facts_and_says_which() -> None:
    asleep, awake = a_plan(fallback={"maxAttempts": 2}), a_plan("a", fallback={"maxAttempts": 2})
    assert [[g for g, _ in routes(p)[0].groups[:2]] for p in (asleep, awake)] == [["a/far", "a"], ["a", "a/far"]]
    assert asleep.policies[0].version == awake.policies[0].version
    entry = routing_table(awake)["auto"]
    assert facts_of(entry, routes(awake)[0]) == ["a: pool shop/a has 1 ready pod, so a then a/far"]


def test_every_route_can_be_reordered_by_the_decider_should_it_be_asked() -> None:
    for route in routes(a_plan("a", "c", chain=["b"], rules=[rule("x", {"h": "1"}, candidates=["d"])])):
        names = [g for g, _ in route.groups]
        assert len(set(names)) == len(names)
        assert {*NAMES, *(f"{n}/far" for n in NAMES)} <= set(names)


# --- what is compiled is what is decided ---

words = st.sampled_from(["1", "2", "3"])
headers = st.dictionaries(st.sampled_from(["h", "i"]), words, max_size=2)


@st.composite
def policies(draw: st.DrawFn) -> RoutingPlan:
    names = draw(st.permutations(NAMES))[: draw(st.integers(1, 4))]
    rules = []
    for number in range(draw(st.integers(0, 4))):
        order = draw(st.permutations(names))[: draw(st.integers(1, len(names)))]
        shape = draw(st.sampled_from(["candidates", "candidates", "neither", "weights"]))
        split = [{"candidate": n, "percent": 100 if i == 0 else 0} for i, n in enumerate(order)]
        inside = draw(st.sampled_from([{}, {}, {}, {"tools": "Absent"}, {"inputTokens": {"max": 50}}]))
        named = {"candidates": order} if shape == "candidates" else {"weights": split} if shape == "weights" else {}
        rules.append(rule(f"r{number}", draw(headers), **named, **inside))
    can = st.fixed_dictionaries({}, optional={"maxContext": st.integers(1, 300), "tools": st.booleans(), "json": st.booleans(), "vision": st.booleans()})
    candidates = [{"name": n, "poolRef": {"name": n}, "capabilities": draw(can)} for n in names]
    chain = draw(st.permutations(names))[: draw(st.integers(1, len(names)))]
    existing = draw(st.sets(st.sampled_from(NAMES)))
    pools = tuple(a_pool(n, pods(), *([remote("far", FAR)] if draw(st.booleans()) else [])) for n in sorted(existing))
    ready = {f"shop/{n}": (Address("10.0.0.1", 8000, "gpu"),) for n in existing if draw(st.booleans())}
    made = a_policy("p", *names, chain=chain, candidates=candidates, rules=rules, decided=False, fallback={"maxAttempts": draw(st.integers(1, 5))})
    return compile_routes(RoutingWorld(pools, (made,), ready))


contents = st.sampled_from(["hi", "hi", "w " * 90, [{"type": "image_url"}], '"model"'])
messages = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": contents}), max_size=3)
bodies = st.fixed_dictionaries(
    {"model": st.just("auto"), "messages": messages},
    optional={
        "tools": st.just([{"type": "function"}]), "response_format": st.just({"type": "json_object"}), "max_tokens": st.integers(1, 300),
        "max_completion_tokens": st.integers(1, 300), "metadata": st.just({"model": "x"}), "user": st.sampled_from(["u1", "u2"]),
    },
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(policies(), st.lists(st.tuples(headers, bodies), min_size=10, max_size=10))
def test_a_compiled_answer_is_the_decided_one(plan: RoutingPlan, requests: list[tuple[dict[str, str], dict[str, object]]]) -> None:
    """A thousand requests: ten to each of a hundred policies."""
    entry = routing_table(plan)["auto"]
    clusters = dict(entry.policy.groups)
    for given_headers, body in requests:
        raw = json.dumps(body).encode()
        route = compiled_route(entry, given_headers, raw)
        if route is None:
            continue
        told = decide({"auto": entry}, read_request(raw, given_headers), "x")
        assert told.refusal is None
        assert (told.chain, told.rule) == (route.chain, route.rule)
        walked = [group.partition("#")[0] for group, _ in route.groups[: entry.policy.max_attempts]]
        assert walked == list(told.groups)
        assert all(cluster == clusters[group.partition("#")[0]] for group, cluster in route.groups)


def test_the_property_above_has_something_to_say() -> None:
    """Most plain requests of plain policies are compiled away."""
    plan = a_plan("a", "b", rules=[rule("x", {"h": "1"}, candidates=["b"])])
    entry = routing_table(plan)["auto"]
    for given_headers in ({}, {"h": "1"}):
        assert compiled_route(entry, given_headers, b'{"model":"auto","messages":[]}') is not None
