"""Decisions: golden cases, and laws that hold for any policy and request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings, strategies as st
from tests.core.routing.deciding import a_plan, body_of
from tests.support.golden import GOLDEN, agrees

from modelfleet.api.conditions import DecisionReason
from modelfleet.api.v1alpha1.routingpolicy import Capabilities, HeaderMatch, Match, Range, Rule, Weight
from modelfleet.core.explain import explain_request
from modelfleet.core.routing.decide import Decision, decide, refuse, routing_table
from modelfleet.core.routing.ir import CandidatePlan, EntrypointPlan, PolicyPlan, RoutingPlan
from modelfleet.core.routing.request import BadRequest, RequestFacts, read_request


@pytest.mark.parametrize("path", sorted((GOLDEN / "decide").glob("*.in.yaml")), ids=lambda p: p.name.removesuffix(".in.yaml"))
def test_golden(path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    table = routing_table(a_plan(case))
    made = {}
    for request in case["requests"]:
        headers = request.get("headers", {})
        try:
            facts = read_request(body_of(request), headers, request.get("lifted"), cut=headers.get("x-envoy-auth-partial-body") == "true")
            decision = decide(table, facts, "d1", route_policy="shop/p")
        except BadRequest as error:
            decision = refuse("d1", request.get("lifted", ""), error)
        made[request["name"]] = {
            "header": decision.header,
            "groups": list(decision.groups),
            "refusal": decision.refusal and {"status": decision.refusal.status, "body": decision.refusal.body().decode()},
            "explanation": explain_request(decision),
        }
    agrees(path.with_name(path.name.replace(".in.", ".out.")), made)


# --- laws ---

NAMES = ["a", "b", "c", "d"]
capabilities = st.builds(Capabilities, max_context=st.none() | st.integers(1, 4000), tools=st.booleans(), json_mode=st.booleans(), vision=st.booleans())
candidates = st.lists(st.tuples(capabilities, st.integers(0, 3)), min_size=1, max_size=4).map(
    lambda made: tuple(
        CandidatePlan(name, f"shop/{name}", tuple(f"{name}/{i}" for i in range(groups)), can, "" if groups else "nothing there")
        for name, (can, groups) in zip(NAMES, made, strict=False)
    )
)
matches = st.builds(
    Match,
    headers=st.none() | st.just([HeaderMatch(name="x-app", value="shop")]),
    input_tokens=st.none() | st.builds(Range, min=st.none() | st.integers(0, 500), max=st.none() | st.integers(500, 3000)),
    tools=st.sampled_from(["Any", "Present", "Absent"]),
)


@st.composite
def policies(draw: st.DrawFn) -> PolicyPlan:
    made = draw(candidates)
    names = [c.name for c in made]
    rules = []
    for number in range(draw(st.integers(0, 3))):
        shape = draw(st.sampled_from(["candidates", "weights", "neither"]))
        order = draw(st.permutations(names))[: draw(st.integers(1, len(names)))]
        cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=len(order) - 1, max_size=len(order) - 1)))
        percents = [b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]
        rules.append(Rule(
            name=f"r{number}", match=draw(matches), candidates=order if shape == "candidates" else None,
            weights=[Weight(candidate=n, percent=p) for n, p in zip(order, percents, strict=True)] if shape == "weights" else None,
        ))  # fmt: skip
    pinned = draw(st.sampled_from([None, *(rule.name for rule in rules)]))
    return PolicyPlan(
        key="shop/p", generation=1, version="v", entrypoints=(EntrypointPlan("auto"), EntrypointPlan("pinned", pinned)), candidates=made,
        default_chain=tuple(draw(st.permutations(names))[: draw(st.integers(1, len(names)))]), rules=tuple(rules), static_chain=(), groups=(),
        refuse_when_decider_lost=False, triggers=(), max_attempts=draw(st.integers(1, 5)), first_byte_timeout=1.0, total_timeout=2.0,
    )  # fmt: skip


requests = st.builds(
    RequestFacts,
    model=st.sampled_from(["auto", "pinned", "other"]), headers=st.sampled_from([{}, {"x-app": "shop"}]), input_tokens=st.integers(0, 5000),
    output_tokens=st.integers(0, 2000), tools=st.booleans(), json_mode=st.booleans(), vision=st.booleans(), session=st.text(max_size=8), body_cut=st.booleans(),
)  # fmt: skip


def _decide(policy: PolicyPlan, facts: RequestFacts) -> Decision:
    return decide(routing_table(RoutingPlan("v", (policy,))), facts, "d1")


@settings(max_examples=500, deadline=None)
@given(policies(), requests)
def test_a_chain_holds_only_groups_of_capable_candidates_fills_the_attempts_and_every_absent_candidate_has_its_reason(
    policy: PolicyPlan, facts: RequestFacts
) -> None:
    decision = _decide(policy, facts)
    assert decision == _decide(policy, facts)
    if facts.model == "other":
        assert (decision.groups, decision.refusal, decision.why) == ((), None, DecisionReason.NOT_PROGRAMMED)
        return
    by_name = {c.name: c for c in policy.candidates}

    def capable(c: CandidatePlan) -> bool:
        can = c.capabilities
        enough = can.max_context is None or facts.input_tokens + facts.output_tokens <= can.max_context
        return bool(c.groups) and enough and (can.tools or not facts.tools) and (can.json_mode or not facts.json_mode) and (can.vision or not facts.vision)

    told = {step.subject for step in decision.trail}
    assert {c.name for c in policy.candidates if not capable(c)} <= told
    if decision.refusal is not None:
        assert decision.refusal.status in (400, 503)
        assert (decision.groups, decision.chain) == ((), ())
        assert not any(capable(by_name[name]) for name in policy.default_chain)
        return
    assert len(decision.groups) == policy.max_attempts
    assert set(decision.groups) == {g for name in decision.chain for g in by_name[name].groups} & set(decision.groups)
    assert all(capable(by_name[name]) for name in decision.chain)
    last = decision.groups[-1]
    seen = list(dict.fromkeys(decision.groups))
    assert list(decision.groups) == seen + [last] * (policy.max_attempts - len(seen))
    cut = {step.subject for step in decision.trail if step.code is DecisionReason.CUT_BY_MAX_ATTEMPTS}
    assert {name for name in policy.default_chain if capable(by_name[name])} <= set(decision.chain) | cut


@settings(max_examples=200, deadline=None)
@given(policies(), requests)
def test_a_candidate_more_never_turns_an_answer_into_a_refusal(policy: PolicyPlan, facts: RequestFacts) -> None:
    before = _decide(policy, facts)
    able = CandidatePlan("z", "shop/z", ("z/0",), Capabilities(vision=True))
    after = _decide(replace(policy, candidates=(*policy.candidates, able), default_chain=(*policy.default_chain, "z")), facts)
    assert after.refusal is None
    if before.chain:
        assert after.chain[: len(before.chain)] == before.chain or len(before.chain) < len(after.chain)


def _weighted(percents: dict[str, int], session: str, **dropped: int) -> Decision:
    made = tuple(CandidatePlan(n, f"shop/{n}", (n,), Capabilities(max_context=dropped.get(n))) for n in percents)
    rule = Rule(name="split", weights=[Weight(candidate=n, percent=p) for n, p in percents.items()])
    policy = PolicyPlan(
        key="shop/p", generation=1, version="v", entrypoints=(EntrypointPlan("auto"),), candidates=made, default_chain=("a",), rules=(rule,), static_chain=(),
        groups=(), refuse_when_decider_lost=False, triggers=(), max_attempts=3, first_byte_timeout=1.0, total_timeout=2.0,
    )  # fmt: skip
    return _decide(policy, RequestFacts("auto", input_tokens=10, session=session))


def test_weights_split_sessions_in_their_proportion_and_keep_each_session_where_it_was() -> None:
    sessions = [f"h:{n}" for n in range(4000)]
    first = [_weighted({"a": 5, "b": 25, "c": 70}, s).chain[0] for s in sessions]
    for name, percent in (("a", 5), ("b", 25), ("c", 70)):
        assert abs(first.count(name) / 40 - percent) < 2.5, name
    moved = [_weighted({"a": 5, "b": 25, "c": 70}, s, c=1).chain[0] for s in sessions]
    assert "c" not in moved
    assert all(after == before for before, after in zip(first, moved, strict=True) if before != "c")


def test_percent_zero_drains_and_leaves_the_default_chain_alone() -> None:
    chains = {_weighted({"a": 0, "b": 100, "c": 0}, f"h:{n}").chain for n in range(50)}
    assert chains == {("b", "a")}
