"""Teams, pools and policies -> plans: a table of what is wrong with a team, names, prices, what is behind a role, and one answer whatever the order."""

from __future__ import annotations

import random
import re
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from tests.api.door import CHAIN, TEAM, but
from tests.api.test_parse import damaged
from tests.support.builders import NOON, a_policy, a_pool

from modelfleet.api.parse import parse
from modelfleet.api.v1alpha1 import AgentTeam, ModelPool, RoutingPolicy
from modelfleet.core.status.agentteam import agentteam_status
from modelfleet.core.teams.compile import compile_teams, revision_of
from modelfleet.core.teams.ir import RoleTarget, Target, TeamPlan, TeamsPlan, TokenPrice

STEPS = "spec__strategy__chain__steps"
REPEAT = "spec__strategy__chain__repeat"
MAP_REDUCE = "spec__strategy__mapReduce"
CRITIC = "spec__roles__2__outputSchema"


def a_team(base: dict[str, Any] = TEAM, namespace: str = "default", name: str | None = None, **changes: Any) -> AgentTeam:
    return AgentTeam.model_validate(
        but(base, metadata__namespace=namespace, metadata__name=name or base["metadata"]["name"], metadata__generation=3, **changes)
    )


def serving(**figures: Any) -> dict[str, Any]:
    """The status of a pool on flavor l4, one replica of which serves."""
    price = [{"flavor": "l4", "inputPerMillion": "0.02", "outputPerMillion": "0.2"}]
    return {"observedGeneration": 1, "flavors": [{"name": "l4", "desired": 1, "ready": 1, "reason": "Preferred"}], "price": price, **figures}


def small(**status: Any) -> ModelPool:
    return a_pool("small", "default").wants("l4").with_status(status or serving()).build()


def boss(namespace: str = "default", endpoint: dict[str, Any] | None = None) -> ModelPool:
    built = a_pool("boss", namespace).or_endpoint()
    return built.with_status({"flavors": [{"name": "remote", "reason": "Preferred", **endpoint}]} if endpoint is not None else {}).build()


def compiled(*teams: AgentTeam, others: tuple[ModelPool | RoutingPolicy, ...] | None = None) -> TeamsPlan:
    things = (small(), boss(), a_policy("assistant", "boss", "small", namespace="default")) if others is None else others
    return compile_teams(teams, [t for t in things if isinstance(t, ModelPool)], [t for t in things if isinstance(t, RoutingPolicy)])


def the_plan(team: AgentTeam) -> TeamPlan:
    plan = compiled(team)
    assert plan.problems == ()
    return plan.teams[team.key]


# --- what a plan holds ---


def test_a_map_reduce_in_full() -> None:
    plan = the_plan(a_team(spec__budget__perRun__cost="0.5", spec__roles__1__retries={"max": 1, "backoff": "2s", "retryOn": ["Timeout"]}))
    assert (plan.key, plan.generation, plan.answering_role, plan.suspended) == ("default/readers", 3, "boss", False)
    assert (plan.description, plan.max_runs, plan.queue, plan.journal_full, plan.journal_ttl) == (TEAM["spec"]["description"], 50, 200, True, 72 * 3600.0)
    assert asdict(plan.budget) == {"cost_micro_usd": 500_000, "tokens": 600_000, "model_calls": 600, "wall_clock": 120.0, "finalize": True}
    assert list(plan.roles) == ["boss", "reader"]
    reader = plan.roles["reader"]
    assert (reader.target, reader.max_tokens, reader.temperature, reader.top_p) == (Target("pool", "default/small"), 200, "0", None)
    assert (reader.timeout, reader.max_concurrent, reader.max_retries, reader.backoff, reader.retry_on) == (60.0, 64, 1, 2.0, {"Timeout"})
    assert reader.schema is not None
    assert reader.schema.startswith('{"properties":{"finding":{"maxLength":600')
    assert str(plan.roles["boss"].target) == "policy:default/assistant"
    assert plan.roles["boss"].schema is None


def test_a_chain_in_full() -> None:
    plan = the_plan(a_team(CHAIN, spec__suspend=True))
    assert (plan.answering_role, plan.suspended, plan.journal_full) == ("writer", True, False)
    assert asdict(plan.budget) == {"cost_micro_usd": None, "tokens": 20_000, "model_calls": 1000, "wall_clock": 300.0, "finalize": False}


def test_the_answering_role_of_a_concat_is_who_maps() -> None:
    concat = {"split": {"by": "Lines"}, "map": {"role": "reader"}, "reducer": "Concat"}
    assert the_plan(a_team(spec__roles=[TEAM["spec"]["roles"][1]], spec__strategy={"mapReduce": concat})).answering_role == "reader"


def test_a_step_of_a_loop_hears_what_the_loop_said_before() -> None:
    the_plan(a_team(CHAIN, **{f"{STEPS}__2__input": "${input} ${steps.draft.output} ${steps.review.output.accept}"}))


# --- what is wrong with a team ---


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({f"{STEPS}__1__input": "${steps.draft.output}"}, "strategy.chain.steps[outline].input names draft, which is not an earlier step"),
        ({f"{STEPS}__1__input": "${steps.outline.output}"}, "strategy.chain.steps[outline].input names outline, which is not an earlier step"),
        ({f"{STEPS}__2__input": "${steps.final.output}"}, "[draft].input names final, which is not an earlier step or one of the same loop"),
        ({f"{STEPS}__2__input": "${steps.nobody.output}"}, "[draft].input names nobody, which is not an earlier step or one of the same loop"),
        ({f"{STEPS}__2__input": "${steps.review.output.praise}"}, "[draft].input: praise is not in the properties of role critic's outputSchema"),
        ({f"{STEPS}__4__input": "${steps.review.output.praise}"}, "praise is not in the properties of role critic's outputSchema"),
        ({f"{STEPS}__4__input": "${steps.draft.output.title}"}, "strategy.chain.steps[final].input: title needs an outputSchema of role writer"),
        ({f"{STEPS}__4__input": "${question}"}, "strategy.chain.steps[final].input: ${question} is not known"),
        ({f"{STEPS}__4__input": "${input}" * 33}, "strategy.chain.steps[final].input: 33 placeholders, the most is 32"),
        ({f"{STEPS}__4__input": "${input"}, "strategy.chain.steps[final].input: ${input has no closing brace"),
        (
            {f"{STEPS}__1__when": {"step": "review", "field": "accept", "oneOf": ["true"]}},
            "strategy.chain.steps[outline].when.step names review, which is not an earlier step",
        ),
        ({f"{STEPS}__1__when__field": "sort"}, "strategy.chain.steps[outline].when.field: sort is not in the properties of role clerk's outputSchema"),
        ({f"{STEPS}__1__when__oneOf": ["hard", "harder"]}, "when.oneOf[1]: no answer that fits the role's outputSchema has harder there"),
        ({f"{REPEAT}__from": "start"}, "strategy.chain.repeat.from names start, which is not a step"),
        ({f"{REPEAT}__to": "end"}, "strategy.chain.repeat.to names end, which is not a step"),
        ({f"{REPEAT}__from": "review", f"{REPEAT}__to": "draft"}, "strategy.chain.repeat: from (review) comes after to (draft)"),
        ({f"{REPEAT}__until__step": "triage"}, "strategy.chain.repeat.until.step names triage, which is not one of the repeated steps"),
        ({f"{REPEAT}__until__field": "verdict"}, "strategy.chain.repeat.until.field: verdict is not in the properties"),
        ({f"{REPEAT}__until__oneOf": ["yes"]}, "strategy.chain.repeat.until.oneOf[0]: no answer that fits"),
        ({f"{STEPS}__3__role": "writer"}, "roles[critic] is used by nothing in the strategy"),
        ({f"{STEPS}__0__role": "nobody"}, "strategy.chain.steps[triage].role names nobody, which is not in roles"),
        ({"spec__strategy": {}}, "strategy: exactly one of chain and mapReduce"),
    ],
)
def test_a_chain_that_cannot_work(changes: dict[str, Any], told: str) -> None:
    refused(a_team(CHAIN, **changes), "InvalidStrategy", told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {f"{MAP_REDUCE}__map__dropWhen__field": "useful"},
            "strategy.mapReduce.map.dropWhen.field: useful is not in the properties of role reader's outputSchema",
        ),
        ({f"{MAP_REDUCE}__map__dropWhen__oneOf": ["no"]}, "strategy.mapReduce.map.dropWhen.oneOf[0]: no answer that fits the role's outputSchema has no there"),
        ({f"{MAP_REDUCE}__map__dropWhen__oneOf": [" false"]}, "strategy.mapReduce.map.dropWhen.oneOf[0]: write  false as false, its canonical JSON"),
        ({"spec__roles__1__outputSchema": None}, "strategy.mapReduce.map.dropWhen.field: relevant needs an outputSchema of role reader"),
        ({f"{MAP_REDUCE}__plan": None, f"{MAP_REDUCE}__reduce__role": "reader"}, "roles[boss] is used by nothing in the strategy"),
        ({f"{MAP_REDUCE}__plan": None, f"{MAP_REDUCE}__reduce__role": "reader", f"{MAP_REDUCE}__escalateTo": "boss"}, "roles[boss] is used by nothing"),
        ({f"{MAP_REDUCE}__split__tokens": None}, "strategy.mapReduce.split: Chunk needs tokens, and overlap at most half of them"),
        ({f"{MAP_REDUCE}__split__overlap": 800}, "strategy.mapReduce.split: Chunk needs tokens, and overlap at most half of them"),
        ({f"{MAP_REDUCE}__reducer": "Concat"}, "strategy.mapReduce: exactly one of reduce and reducer"),
        ({f"{MAP_REDUCE}__onBranchFailure": "Escalate"}, "strategy.mapReduce: onBranchFailure Escalate needs escalateTo"),
        ({"spec__strategy__chain": CHAIN["spec"]["strategy"]["chain"]}, "strategy: exactly one of chain and mapReduce"),
    ],
)
def test_a_map_reduce_that_cannot_work(changes: dict[str, Any], told: str) -> None:
    refused(a_team(**changes), "InvalidStrategy", told)


def test_a_role_that_work_escalates_to_is_used() -> None:
    changes = {f"{MAP_REDUCE}__plan": None, f"{MAP_REDUCE}__reduce__role": "reader", f"{MAP_REDUCE}__onBranchFailure": "Escalate"}
    assert the_plan(a_team(**changes, **{f"{MAP_REDUCE}__escalateTo": "boss"})).answering_role == "reader"


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "object", "properties": {"accept": {"type": "text"}}}, "roles[critic].outputSchema.properties.accept.type: must be one of object"),
        ({}, "roles[critic].outputSchema.type: must be one of"),
        ({"type": "object", "anyOf": []}, "roles[critic].outputSchema: 'anyOf' is not supported here"),
    ],
)
def test_a_schema_outside_of_the_subset(schema: dict[str, Any], told: str) -> None:
    refused(a_team(CHAIN, **{CRITIC: schema}), "InvalidSchema", told)


def refused(team: AgentTeam, reason: str, told: str) -> None:
    plan = compiled(team)
    assert [(p.team, p.type, p.reason) for p in plan.problems] == [(team.key, "Accepted", reason)]
    assert told in plan.problems[0].message
    assert plan.teams == {}
    assert plan.names[team.key] == team.key
    assert set(plan.targets[team.key]) == {role.name for role in team.spec.roles}


def test_many_faults_are_told_together_and_cut() -> None:
    steps = [{"name": f"s{n:02}", "role": "writer", "input": "${nothing}"} for n in range(16)]
    message = compiled(a_team(CHAIN, spec__strategy={"chain": {"steps": steps}})).problems[0].message
    assert message.startswith("roles[clerk] is used by nothing in the strategy: use it or remove it; roles[critic] is used by nothing")
    assert message.endswith("; and 10 more")


def test_what_is_not_there_is_named_with_the_role_that_wants_it() -> None:
    plan = compiled(a_team(), others=(a_pool("small", "elsewhere").wants("l4").build(), a_policy("assistant", namespace="elsewhere")))
    assert [(p.type, p.reason, p.message) for p in plan.problems] == [
        ("ResolvedRefs", "PolicyNotFound", "no such RoutingPolicy: default/assistant (roles[boss].modelFrom)"),
        ("ResolvedRefs", "PoolNotFound", "no such ModelPool: default/small (roles[reader].modelFrom)"),
    ]
    assert plan.teams == {}
    assert plan.targets["default/readers"] == {"boss": RoleTarget(), "reader": RoleTarget()}


# --- what is behind a role ---


def test_a_policy_reaches_every_flavor_of_every_candidate_that_exists() -> None:
    policy = a_policy("assistant", "boss", "small", "nobody", namespace="default")
    plan = compiled(a_team(), others=(small(), boss(endpoint={"reachable": True}), boss("elsewhere"), policy))
    ours = frozenset({("default/small", "l4")})
    assert plan.targets["default/readers"] == {
        "boss": RoleTarget((("default/boss", "remote"), ("default/small", "l4")), candidates=2, usable=True, hosted=ours),
        "reader": RoleTarget((("default/small", "l4"),), candidates=1, usable=True, hosted=ours),
    }


@pytest.mark.parametrize(
    ("pool", "usable"),
    [
        (small(), True),
        (small(flavors=[{"name": "l4", "desired": 1, "ready": 0, "reason": "Preferred"}]), False),
        (small(observedGeneration=1), False),
        (small(conditions=[{"type": "Ready", "status": "True", "reason": "Serving", "lastTransitionTime": NOON}]), True),
        (small(conditions=[{"type": "Ready", "status": "True", "reason": "ScaledToZero", "lastTransitionTime": NOON}]), False),
        (boss(), False),
        (boss(endpoint={}), True),
        (boss(endpoint={"reachable": True}), True),
        (boss(endpoint={"reachable": False}), False),
    ],
)
def test_whether_anything_answers_is_read_from_what_the_operator_saw(pool: ModelPool, usable: bool) -> None:
    team = a_team(spec__roles__1__modelFrom={"modelPoolRef": {"name": pool.metadata.name}})
    assert compiled(team, others=(pool,)).targets[team.key]["reader"].usable is usable


def test_prices_are_list_prices_and_what_status_tells_and_never_a_guess() -> None:
    unpriced = (
        a_pool("new", "default").wants("h100", "l4").with_status({"price": [{"flavor": "l4", "inputPerMillion": "free", "outputPerMillion": "1"}]}).build()
    )
    assert compiled(others=(boss(), unpriced, small())).prices == {
        ("default/boss", "remote"): TokenPrice(200_000, 600_000),
        ("default/small", "l4"): TokenPrice(20_000, 200_000),
    }


# --- names ---


def test_the_short_name_is_a_teams_while_nothing_else_has_it() -> None:
    alone = compiled(a_team(), a_team(CHAIN, "default"))
    assert alone.names == {
        "default/readers": "default/readers",
        "readers": "default/readers",
        "default/writers": "default/writers",
        "writers": "default/writers",
    }
    assert list(alone.names) == sorted(alone.names)
    assert set(compiled(a_team(), a_team(namespace="legal")).names) == {"default/readers", "legal/readers"}
    entrypoint = a_policy("other", "boss")
    assert set(compiled(a_team(name="auto"), others=(entrypoint,)).names) == {"default/auto"}
    assert set(compiled(a_team(name="boss-model"), others=(boss(),)).names) == {"default/boss-model"}


def test_a_team_that_is_refused_keeps_its_name_and_one_that_is_deleted_frees_it() -> None:
    broken = a_team(CHAIN, "legal", "readers", **{f"{REPEAT}__to": "nowhere"})
    assert set(compiled(a_team(), broken).names) == {"default/readers", "legal/readers"}
    leaving = a_team(CHAIN, "legal", "readers", metadata__deletionTimestamp="2026-01-05T12:00:00Z")
    plan = compiled(a_team(), leaving)
    assert set(plan.names) == {"default/readers", "readers"}
    assert set(plan.teams) == set(plan.targets) == {"default/readers"}


# --- revisions, and one answer ---


def test_a_revision_is_of_what_a_run_is_made_of() -> None:
    revision = the_plan(a_team()).revision
    assert re.fullmatch(r"r-[0-9a-f]{10}", revision)
    shuffled = {key: TEAM["spec"]["roles"][1][key] for key in reversed(TEAM["spec"]["roles"][1])}
    same = [a_team(metadata__labels={"a": "b"}), a_team(spec__roles=[shuffled, TEAM["spec"]["roles"][0]]), a_team(spec__limits={"maxRuns": 50})]
    assert {the_plan(team).revision for team in same} == {revision}
    changes: list[dict[str, Any]] = [
        {"spec__description": "other"},
        {"spec__suspend": True},
        {"spec__roles__0__instructions": "Be brief."},
        {"spec__roles__1__sampling__maxTokens": 201},
        {"spec__roles__1__outputSchema__properties__finding__maxLength": 601},
        {f"{MAP_REDUCE}__reduce__fanIn": 31},
        {"spec__budget__perRun__cost": "0.51"},
        {"spec__limits": {"queue": 1}},
        {"spec__journal": {"ttl": "1h"}},
        {"namespace": "legal"},
    ]
    others = {revision_of(plan) for c in changes for plan in compile_teams([a_team(**c)], *in_namespaces("default", "legal")).teams.values()}
    assert len(others - {revision}) == len(changes)


def in_namespaces(*namespaces: str) -> tuple[list[ModelPool], list[RoutingPolicy]]:
    pools = [a_pool(name, namespace).wants("l4").build() for namespace in namespaces for name in ("small", "boss")]
    return pools, [a_policy("assistant", "boss", namespace=namespace) for namespace in namespaces]


def test_prices_and_the_generation_are_in_no_revision() -> None:
    dear = compiled(a_team(), others=(small(**serving(price=[])), boss(), a_policy("assistant", namespace="default")))
    assert dear.prices == {("default/boss", "remote"): TokenPrice(200_000, 600_000)}
    assert dear.teams["default/readers"].revision == the_plan(a_team()).revision
    assert revision_of(the_plan(AgentTeam.model_validate(but(TEAM, metadata__generation=77)))) == the_plan(a_team()).revision


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[AgentTeam], list[ModelPool], list[RoutingPolicy]]:
    spaces = ["default", "legal", "ops"]
    teams = [
        a_team(draw(st.sampled_from([TEAM, CHAIN])), space, name, **draw(st.sampled_from([{}, {"spec__suspend": True}, {"spec__strategy": {}}])))
        for space in spaces
        for name in draw(st.lists(st.sampled_from(["readers", "auto", "small-model"]), unique=True))
    ]
    pools = [
        a_pool(name, space).wants("l4").or_endpoint().build() for space in spaces for name in draw(st.lists(st.sampled_from(["small", "boss"]), unique=True))
    ]
    policies = [a_policy("assistant", "boss", "small", namespace=space) for space in draw(st.lists(st.sampled_from(spaces), unique=True))]
    return teams, pools, policies


def order_of(plan: TeamsPlan) -> list[Any]:
    return [*plan.teams, *plan.names, *plan.targets, *(role for roles in plan.targets.values() for role in roles), *plan.problems, *plan.prices]


@settings(max_examples=30, deadline=None)
@given(fleets(), st.randoms(use_true_random=False))
def test_the_order_of_objects_is_no_matter(fleet: tuple[list[Any], list[Any], list[Any]], chance: random.Random) -> None:
    first = compile_teams(*fleet)
    again = compile_teams(*(chance.sample(things, len(things)) for things in fleet))
    assert again == first
    assert order_of(again) == order_of(first)
    assert set(first.teams) <= set(first.targets) == {team.key for team in fleet[0]}
    assert set(first.names.values()) == set(first.targets)
    assert set(first.targets) == set(first.teams) | {problem.team for problem in first.problems}


@settings(max_examples=40, deadline=None)
@given(st.lists(damaged(AgentTeam), max_size=3))
def test_what_came_past_the_schema_stalls_alone(damage: list[tuple[Any, Any]]) -> None:
    """Objects that parse, though the API server would have refused them: each is planned or refused, and their neighbour is planned."""
    neighbour = a_team(CHAIN, name="neighbour")
    parsed = {read.key: read for _, raw in damage if isinstance(read := parse(AgentTeam, raw), AgentTeam)}
    odd = [team for key, team in sorted(parsed.items()) if key != neighbour.key]
    plan = compiled(neighbour, *odd)
    assert neighbour.key in plan.teams
    for team in odd:
        assert (team.key in plan.teams) != any(problem.team == team.key for problem in plan.problems) or team.metadata.deletion_timestamp is not None
        assert agentteam_status(team, plan, frozenset(), NOON)["conditions"]
