"""A router that is newer than the cluster's CustomResourceDefinitions: it routes, and learns of teams once the cluster knows them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.router.test_gateway import a_gateway
from tests.router.test_team_gateway import a_team, apply, asked, team_status
from tests.support.apiserver import CRDS, ApiServer
from tests.support.envoy import until

from modelfleet.api.v1alpha1 import AgentTeam


async def test_without_the_kind_of_teams_the_router_routes_and_takes_it_up_when_it_comes(make_apiserver: Callable[..., ApiServer], tmp_path: Path) -> None:
    server = make_apiserver()
    for file in CRDS.glob("*.yaml"):
        if AgentTeam.PLURAL not in file.name:
            shutil.copy(file, tmp_path)
    server.apply_crds(tmp_path)
    async with a_gateway(server) as gateway:
        await gateway.answers("RuleMatched")
        name = f"{gateway.namespace}/readers"
        await asked(gateway, name, lambda a: a.status == 404)
        assert gateway.logs().count("knows no agentteams") == 1
        server.apply_crds()
        apply(gateway, a_team(gateway))
        await until(lambda: team_status(gateway).get("gateways"), "the gateway's entry in the team's status", 120)
        # no team runtime runs here, so its place says so: the name is known
        answer = await asked(gateway, name, lambda a: a.status == 503)
        assert answer.headers["x-modelfleet-decision"].startswith(f"policy=-;team={name}/1")
        await gateway.answers("RuleMatched")
        assert gateway.logs().count("knows no agentteams") == 1
