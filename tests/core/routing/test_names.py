"""Who has a model name that a policy and a team could both mean: the plan of teams, the routes and the policies' status agree."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.support.envoy import a_policy

from modelfleet.api.v1alpha1 import AgentTeam, RoutingPolicy
from modelfleet.core.reconcile import plan_fleet
from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.ir import RoutingPlan, RoutingWorld
from modelfleet.core.teams.compile import compile_teams
from modelfleet.core.world import World
from modelfleet.router.teams import TeamNames

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def a_team(namespace: str, name: str, **metadata: Any) -> AgentTeam:
    role = {"name": "r", "modelFrom": {"modelPoolRef": {"name": "small"}}, "sampling": {"maxTokens": 5}}
    spec = {"roles": [role], "strategy": {"chain": {"steps": [{"name": "s", "role": "r"}]}}, "budget": {"perRun": {"tokens": 9, "wallClock": "1m"}}}
    return AgentTeam.model_validate({"metadata": {"name": name, "namespace": namespace, "generation": 1, **metadata}, "spec": spec})


def of(namespace: str, *entrypoints: str, born: int = 1) -> RoutingPolicy:
    policy = a_policy("p", "small", entrypoints=list(entrypoints))
    metadata = policy.metadata.model_copy(update={"namespace": namespace, "creation_timestamp": datetime(2026, 1, born, tzinfo=UTC)})
    return policy.model_copy(update={"metadata": metadata})


def routed(policies: tuple[RoutingPolicy, ...], teams: tuple[AgentTeam, ...]) -> RoutingPlan:
    return compile_routes(RoutingWorld(policies=policies, teams=TeamNames().routes(teams, (), policies)))


def accepted(policies: tuple[RoutingPolicy, ...], teams: tuple[AgentTeam, ...]) -> dict[str, tuple[str, str]]:
    writes = [w for w in plan_fleet(World(now=NOW, policies=policies, teams=teams)).statuses if w.kind == "RoutingPolicy"]
    found = {}
    for write in writes:
        condition = next(c for c in write.status["conditions"] if c["type"] == "Accepted")
        found[f"{write.namespace}/{write.name}"] = (condition["reason"], condition["message"])
    return found


def test_no_policy_takes_or_blocks_a_teams_full_name() -> None:
    """Neither one of another namespace, nor an older one, nor one of its own namespace."""
    teams = (a_team("beta", "readers"),)
    for thief in ("alpha", "beta", "zeta"):
        policies = (of(thief, "beta/readers", "mine"), of("other", "theirs", born=2))
        plan = routed(policies, teams)
        assert {e.name: p.key for p in plan.policies for e in p.entrypoints} == {"mine": f"{thief}/p", "theirs": "other/p"}
        assert [t.names for t in plan.teams] == [("beta/readers", "readers")]
        told = accepted(policies, teams)
        assert told[f"{thief}/p"] == ("EntrypointConflict", "beta/readers belongs to the AgentTeam beta/readers, whose full name it is: choose another name")
        assert told["other/p"][0] != "EntrypointConflict"


def test_a_policy_with_that_name_alone_is_not_programmed_and_has_the_name_back_when_the_team_goes() -> None:
    policies = (of("alpha", "beta/readers"),)
    for teams in ((), (a_team("beta", "readers", deletionTimestamp="2026-11-24T00:00:00Z", finalizers=["x"]),)):
        assert [e.name for p in routed(policies, teams).policies for e in p.entrypoints] == ["beta/readers"]
        assert accepted(policies, teams)["alpha/p"][0] != "EntrypointConflict"
    assert routed(policies, (a_team("beta", "readers"),)).policies == ()


@pytest.mark.parametrize("named", ["readers", "beta/readers", "gamma/readers", "beta/writers", "beta"])
def test_every_name_has_one_owner_and_all_agree_on_it(named: str) -> None:
    teams = (a_team("beta", "readers"), a_team("gamma", "readers"), a_team("beta", "writers"))
    for chosen, policies in itertools.product(
        [teams[:n] for n in range(4)], [(of("alpha", named),), (of("alpha", named, "writers"), of("beta", named, "x", born=2))]
    ):
        plan, names = routed(policies, chosen), compile_teams(chosen, (), policies).names
        by_team = [(name, t.team) for t in plan.teams for name in t.names]
        owners = [*by_team, *((e.name, p.key) for p in plan.policies for e in p.entrypoints)]
        assert len({name for name, _ in owners}) == len(owners)
        assert dict(by_team) == names
        assert {team.key for team in chosen} <= set(names)
        lost = {key for key, (reason, _) in accepted(policies, chosen).items() if reason == "EntrypointConflict"}
        assert lost == {p.key for p in policies if any((e.name, p.key) not in owners for e in p.spec.entrypoints)}
