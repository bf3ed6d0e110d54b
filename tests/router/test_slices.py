"""Plans put together from forms of different age: a form that Envoy had to keep holds no name against its present owner."""

from __future__ import annotations

from dataclasses import replace

from tests.support.envoy import a_policy, a_pool

from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.ir import PolicyPlan, RoutingPlan, RoutingWorld, TeamRoute
from modelfleet.router.slices import Slice, effective, slices, with_own_names

TEAM = TeamRoute("beta/readers", ("beta/readers", "readers"), 1, "r-1")


def a_plan(*policies: tuple[str, list[str]], teams: tuple[TeamRoute, ...] = ()) -> RoutingPlan:
    made = tuple(a_policy(name, "small", entrypoints=names) for name, names in policies)
    return compile_routes(RoutingWorld((a_pool("small"),), made, teams=teams))


def names(parts: list[PolicyPlan | TeamRoute] | RoutingPlan) -> list[tuple[str, str]]:
    kept = [*parts.policies, *parts.teams] if isinstance(parts, RoutingPlan) else parts
    return sorted((name, p.key) for p in kept for name in (p.names if isinstance(p, TeamRoute) else [e.name for e in p.entrypoints]))


def test_what_envoy_kept_of_a_policy_does_not_answer_for_a_team_that_came_since() -> None:
    before, now = a_plan(("p", ["mine", "beta/readers"])), a_plan(("p", ["mine", "beta/readers"]), teams=(TEAM,))
    kept: dict[str, Slice] = slices(now) | {"shop/p": slices(before)["shop/p"]}
    assert names(effective(now, kept)) == [("beta/readers", TEAM.key), ("mine", "shop/p"), ("readers", TEAM.key)]
    del kept[TEAM.key]
    assert ("beta/readers", "shop/p") in names(effective(now, kept)), "while the new owner is not there, the old form goes on"


def test_a_name_that_went_from_a_policy_to_another_and_from_a_team_to_a_policy() -> None:
    before = a_plan(("p", ["a", "b"]), teams=(TEAM,))
    now = a_plan(("p", ["a"]), ("q", ["b", "readers"]), teams=(TEAM,))
    kept = slices(now) | {key: slices(before)[key] for key in ("shop/p", TEAM.key)}
    assert names(effective(now, kept)) == [("a", "shop/p"), ("b", "shop/q"), ("beta/readers", TEAM.key), ("readers", "shop/q")]
    assert names(with_own_names(now, list(now.policies))) == names(replace(now, teams=()))
