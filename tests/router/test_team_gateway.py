"""Teams at the whole gateway: a real API server, a router process, a real Envoy; an AgentTeam is applied and its names, targets and status follow."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.router.test_gateway import ADDRESS, KEY, Gateway, a_gateway
from tests.support.apiserver import ApiServer
from tests.support.envoy import Answer, Upstream, ask, completion, until

from modelfleet.core.grants import GRANT_HEADER, Grant, sign_grant
from modelfleet.core.routing.ir import Address
from modelfleet.router.teams import addresses_of

GRANT_KEY = b"grant-key-3c1d"


@pytest.fixture
async def gateway(apiserver_with_crds: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    (tmp_path / "today").write_bytes(GRANT_KEY)
    monkeypatch.setenv("MODELFLEET_GRANT_KEYS_DIR", str(tmp_path))
    async with a_gateway(apiserver_with_crds) as made:
        made.end_router(signal.SIGTERM)
        monkeypatch.setenv("POD_NAMESPACE", made.namespace)
        made.start_router()
        await made.answers("RuleMatched")
        yield made


@pytest.fixture
async def runtime(gateway: Gateway) -> AsyncIterator[Upstream]:
    server = Upstream(lambda _: completion())
    server._server = await asyncio.start_server(server._serve, ADDRESS, 0)
    server.port = server._server.sockets[0].getsockname()[1]
    apply(gateway, the_slice(gateway, server.port))
    yield server
    await server.stop()


def apply(gateway: Gateway, *objects: dict[str, Any]) -> None:
    gateway.server.apply("\n---\n".join(json.dumps(o) for o in objects))


def the_slice(gateway: Gateway, port: int) -> dict[str, Any]:
    labels = {"app.kubernetes.io/component": "teams", "app.kubernetes.io/part-of": "modelfleet", "kubernetes.io/service-name": "modelfleet-teams"}
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "teams-x", "namespace": gateway.namespace, "labels": labels},
        "addressType": "IPv4", "ports": [{"name": "http", "port": port}], "endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": True}}],
    }  # fmt: skip


@pytest.mark.parametrize(("kind", "address"), [("FQDN", "inside.example.com"), ("IPv4", "10.0.0.9"), ("IPv6", "fd00::9")])
def test_only_addresses_are_endpoints_of_the_runtime(kind: str, address: str) -> None:
    """One name would make Envoy refuse the others with it."""
    raw = {"addressType": kind, "ports": [{"name": "http", "port": 8090}], "endpoints": [{"addresses": [address], "conditions": {"ready": True}}]}
    assert addresses_of(raw) == (() if kind == "FQDN" else (Address(address, 8090, ""),))


def a_team(gateway: Gateway, name: str = "readers") -> dict[str, Any]:
    def role(called: str, **source: Any) -> dict[str, Any]:
        return {"name": called, "modelFrom": source, "sampling": {"maxTokens": 50}}

    return {
        "apiVersion": "modelfleet.dev/v1alpha1", "kind": "AgentTeam", "metadata": {"name": name, "namespace": gateway.namespace},
        "spec": {
            "roles": [role("reader", modelPoolRef={"name": "boss"}), role("writer", routingPolicyRef={"name": "assistant"})],
            "strategy": {"chain": {"steps": [{"name": "read", "role": "reader"}, {"name": "write", "role": "writer"}]}},
            "budget": {"perRun": {"cost": "1", "wallClock": "2m"}},
        },
    }  # fmt: skip


def team_status(gateway: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = gateway.server.get("agentteam", "readers", "-n", gateway.namespace)
    return found.get("status", {})


async def asked(gateway: Gateway, model: str, good: Callable[[Answer], bool], grant: str = "") -> Answer:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    for _ in range(1800):
        answer = await ask(gateway.port, body, headers={GRANT_HEADER: grant} if grant else {})
        if good(answer):
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError(f"{answer}\n{gateway.logs()[-3000:]}")


async def test_a_team_is_served_under_its_names_and_its_roles_calls_under_grants(gateway: Gateway, runtime: Upstream) -> None:
    apply(gateway, a_team(gateway))
    name = f"{gateway.namespace}/readers"
    for model in (name, "readers"):
        answer = await asked(gateway, model, lambda a: a.status == 200)
        assert answer.headers["x-modelfleet-decision"] == f"policy=-;team={name}/1;chain=teams;why=Team"
        assert (runtime.requests[-1].json["model"], runtime.requests[-1].headers["x-modelfleet-caller"]) == (model, "anonymous")

    target = f"pool:{gateway.namespace}/boss"
    grant = sign_grant(Grant(name, "r", "reader", "c", "anonymous", target, int(time.time()) + 300, 10_000), GRANT_KEY)
    served = await asked(gateway, target, lambda a: a.status == 200, grant)
    assert served.headers["x-modelfleet-served"] == f"{gateway.namespace}/boss/far"
    assert gateway.endpoint.requests[-1].headers.get("authorization") == f"Bearer {KEY}"
    policy = f"policy:{gateway.namespace}/assistant"
    refused = await asked(gateway, policy, lambda a: a.status == 403, grant)
    assert refused.json["error"]["code"] == "GrantInvalid"

    await until(lambda: team_status(gateway).get("gateways", [{}])[0].get("version"), "the gateway's entry in the team's status")
    entry = team_status(gateway)["gateways"][0]
    assert (entry["name"], entry["generation"], entry["missing"]) == ("gw-0", 1, [])
    assert entry["version"].startswith("r-")
    assert grant not in gateway.logs()
    assert GRANT_KEY.decode() not in gateway.logs()
    again = gateway.server.get("agentteam", "readers", "-n", gateway.namespace)["metadata"]["resourceVersion"]
    await asyncio.sleep(1.5)
    assert gateway.server.get("agentteam", "readers", "-n", gateway.namespace)["metadata"]["resourceVersion"] == again


async def test_a_teams_name_never_takes_one_from_a_policy_and_goes_with_the_team(gateway: Gateway, runtime: Upstream) -> None:
    apply(gateway, a_team(gateway, "auto"), a_team(gateway))
    await asked(gateway, f"{gateway.namespace}/auto", lambda a: a.status == 200)
    assert (await gateway.chat()).headers["x-modelfleet-served"] == f"{gateway.namespace}/small/cpu"
    gateway.server.kubectl("delete", "agentteam", "readers", "-n", gateway.namespace, check=True)
    gone = await asked(gateway, "readers", lambda a: a.status == 404)
    assert "readers" not in gone.json["error"]["message"].partition("serves")[2]
    gateway.server.kubectl("delete", "endpointslice", "teams-x", "-n", gateway.namespace, check=True)
    await asked(gateway, f"{gateway.namespace}/auto", lambda a: a.status == 503)
    assert (await gateway.chat()).status == 200
