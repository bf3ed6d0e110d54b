"""The condition Programmed: what it says, and that it is written once per change beside the operator's conditions, on a real API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from tests.support.apiserver import ApiServer

from modelfleet.api.v1alpha1 import AgentTeam
from modelfleet.core.render.labels import MANAGER_TEAMS
from modelfleet.kube.client import Client
from modelfleet.kube.resources import AGENT_TEAMS, NAMESPACES
from modelfleet.teamserver.report import Reporter, programmed

SPEC: dict[str, Any] = {
    "roles": [{"name": "boss", "modelFrom": {"modelPoolRef": {"name": "boss"}}, "sampling": {"maxTokens": 10}}],
    "strategy": {"chain": {"steps": [{"name": "only", "role": "boss"}]}},
    "budget": {"perRun": {"cost": "0.5", "wallClock": "60s"}},
}


def gateway(name: str, generation: int = 2, version: str = "v", rejected: str | None = None) -> dict[str, Any]:
    return {"name": name, "generation": generation, "version": version} | ({"rejected": rejected} if rejected else {})


@pytest.mark.parametrize(
    ("gateways", "loaded", "trouble", "status", "reason", "words"),
    [
        ([gateway("g")], 2, "", True, "Programmed", "routed by 1 of 1 gateways"),
        ([gateway("g", 1), gateway("h")], 2, "", True, "Programmed", "routed by 1 of 2 gateways"),
        ([gateway("g"), gateway("h", rejected="no")], 2, "", True, "Programmed", "routed by 1 of 2 gateways"),
        ([], 2, "", False, "Pending", "no gateway has acknowledged generation 2 yet"),
        ([gateway("g", 1)], 2, "", False, "Pending", "no gateway has acknowledged generation 2 yet"),
        ([gateway("g", 0, "")], 2, "", False, "Pending", "no gateway has acknowledged generation 2 yet"),
        ([gateway("g", 1, "v", "bad route")], 2, "", False, "GatewayRejected", "g: bad route"),
        ([gateway("g")], 1, "", False, "Pending", "the runtime has generation 1, not yet 2"),
        ([gateway("g")], None, "", False, "Pending", "see Accepted, ResolvedRefs and Priced"),
        ([gateway("g")], 2, "the journal takes no rows: disk full", False, "RuntimeUnavailable", "disk full"),
    ],
)
def test_what_programmed_says(gateways: list[Any], loaded: int | None, trouble: str, status: bool, reason: str, words: str) -> None:
    team = AgentTeam.model_validate({"metadata": {"name": "t", "namespace": "n", "generation": 2}, "spec": SPEC, "status": {"gateways": gateways}})
    finding = programmed(team, loaded, trouble)
    assert (finding.status, finding.reason) == (status, reason)
    assert words in finding.message


class Team:
    """One team, as the watch would have it after ``look``."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.client, self.namespace = client, namespace
        self.seen: dict[str, AgentTeam] = {}
        self.key = f"{namespace}/t"
        self.reporter = Reporter(client, lambda: self.seen, pause=0.05)

    async def create(self) -> None:
        await self.client.create(
            AGENT_TEAMS, self.namespace, {"apiVersion": "modelfleet.dev/v1alpha1", "kind": "AgentTeam", "metadata": {"name": "t"}, "spec": SPEC}
        )

    async def raw(self) -> dict[str, Any]:
        return await self.client.get(AGENT_TEAMS, self.namespace, "t")

    async def look(self) -> None:
        self.seen = {self.key: AgentTeam.model_validate(await self.raw())}

    async def conditions(self) -> dict[str, dict[str, Any]]:
        return {c["type"]: c for c in (await self.raw()).get("status", {}).get("conditions", [])}

    async def routed(self, generation: int = 1) -> None:
        await self.client.apply(
            AGENT_TEAMS, self.namespace, "t", {"status": {"gateways": [gateway("g", generation)]}}, "modelfleet-router-g", subresource="status"
        )
        await self.look()

    async def told(self, loaded: int | None = 1, trouble: str = "") -> bool:
        self.reporter.tell({} if loaded is None else {self.key: loaded}, trouble)
        return await self.reporter.write_changes()


@pytest.fixture
async def team(apiserver_with_crds: ApiServer) -> AsyncIterator[Team]:
    client = await Client.connect("test", apiserver_with_crds.kubeconfig)
    namespace = f"teams-{uuid4().hex[:8]}"
    await client.create(NAMESPACES, None, {"metadata": {"name": namespace}})
    made = Team(client, namespace)
    await made.create()
    await made.look()
    yield made
    await client.close()


async def test_it_is_written_once_per_change_beside_what_the_operator_wrote(team: Team) -> None:
    accepted = {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": 1,
    }
    await team.client.apply(
        AGENT_TEAMS, team.namespace, "t", {"status": {"revision": "r-1", "conditions": [accepted]}}, "modelfleet-status", subresource="status"
    )
    assert await team.told()
    first = await team.conditions()
    assert (first["Programmed"]["status"], first["Programmed"]["reason"], first["Programmed"]["observedGeneration"]) == ("False", "Pending", 1)
    assert first["Accepted"] == accepted
    await team.routed()
    assert await team.told()
    assert (await team.conditions())["Programmed"]["reason"] == "Programmed"
    before = team.client.writes.total()
    for _ in range(3):
        await team.look()
        assert await team.told()
    assert team.client.writes.total() == before
    assert await team.told(trouble="the journal takes no rows")
    assert (await team.conditions())["Programmed"]["reason"] == "RuntimeUnavailable"
    raw = await team.raw()
    assert raw["status"]["revision"] == "r-1"
    owned = [field for field in raw["metadata"]["managedFields"] if field["manager"] == MANAGER_TEAMS]
    assert [sorted(field["fieldsV1"]["f:status"]) for field in owned] == [["f:conditions"]]
    assert list(owned[0]["fieldsV1"]["f:status"]["f:conditions"]) == ['k:{"type":"Programmed"}']


async def test_the_time_of_transition_stays_while_only_words_change(team: Team) -> None:
    assert await team.told()
    await team.look()
    shown = team.seen[team.key].status.conditions[0]
    backdated = team.seen[team.key].status.model_copy(
        update={"conditions": [shown.model_copy(update={"last_transition_time": shown.last_transition_time.replace(year=2001)})]}
    )
    team.seen = {team.key: team.seen[team.key].model_copy(update={"status": backdated})}
    assert await team.told(loaded=None)
    written = (await team.conditions())["Programmed"]
    assert "see Accepted" in written["message"]
    assert written["lastTransitionTime"].startswith("2001")


async def test_a_restarted_runtime_writes_nothing_new_and_what_was_removed_is_written_again(team: Team) -> None:
    assert await team.told()
    await team.look()
    team.reporter = Reporter(team.client, lambda: team.seen)
    before = team.client.writes.total()
    assert await team.told()
    assert team.client.writes.total() == before
    await team.client.json_patch(AGENT_TEAMS, team.namespace, "t", [{"op": "remove", "path": "/status/conditions/0"}], subresource="status")
    await team.look()
    assert await team.told()
    assert "Programmed" in await team.conditions()


async def test_a_deleted_team_is_no_error_and_is_not_made_anew(team: Team) -> None:
    await team.client.delete(AGENT_TEAMS, team.namespace, "t")
    assert await team.told()
    items, _ = await team.client.list(AGENT_TEAMS, team.namespace)
    assert items == []
    await team.create()
    await team.look()
    assert await team.told()
    assert "Programmed" in await team.conditions()


async def test_what_cannot_be_written_now_is_written_when_the_api_server_is_back(make_apiserver: Callable[..., ApiServer]) -> None:
    server = make_apiserver()
    server.apply_crds()
    client = await Client.connect("test", server.kubeconfig, request_timeout=15.0)
    try:
        await client.create(NAMESPACES, None, {"metadata": {"name": "legal"}})
        team = Team(client, "legal")
        await team.create()
        await team.look()
        server.stop()
        assert not await team.told()
        task = asyncio.create_task(team.reporter.run())
        await asyncio.to_thread(server.start)
        for _ in range(1800):
            if await team.conditions():
                break
            await asyncio.sleep(0.05)
        assert (await team.conditions())["Programmed"]["reason"] == "Pending"
        assert not task.done()
        task.cancel()
    finally:
        await client.close()
