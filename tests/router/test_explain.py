"""`modelfleet explain request`: from the API server's objects and from a router, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from tests.router.test_gateway import the_objects
from tests.support.apiserver import ApiServer

from modelfleet.errors import NotFound, Stalled, Unavailable
from modelfleet.router.explain import explain_from_api, explain_from_router, explain_lines

BODY = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hello"}], "tools": [{"type": "function"}]}).encode()


async def test_offline_it_is_recomputed_from_the_objects(apiserver_with_crds: ApiServer) -> None:
    namespace = f"explain-{uuid4().hex[:8]}"
    apiserver_with_crds.kubectl("create", "namespace", namespace, check=True)
    objects = the_objects(namespace, 8000, 443)
    objects[2]["spec"]["entrypoints"] = [{"name": namespace}]
    apiserver_with_crds.apply("\n---\n".join(json.dumps(o) for o in objects))
    config = apiserver_with_crds.kubeconfig

    def ask(policy: str, body: bytes) -> dict[str, object]:
        return explain_from_api(policy, body, {"X-App": "1"}, config)

    answer = await asyncio.to_thread(ask, f"{namespace}/assistant", BODY.replace(b'"auto"', json.dumps(namespace).encode()))
    assert explain_lines(answer) == [
        "request: about 7 input tokens, tools",
        f"model {namespace}: policy {namespace}/assistant, generation 1",
        "rule short: does not match: tools in the request",
        "no rule matches: the default chain serves",
        "answer: boss then small (groups boss/far, small), because DefaultChain",
    ]
    short = await asyncio.to_thread(ask, f"{namespace}/assistant", json.dumps({"model": namespace}).encode())
    assert (short["chain"], short["groups"]) == (["small", "boss"], ["small", "boss/far", "boss/far"])
    with pytest.raises(NotFound):
        await asyncio.to_thread(ask, f"{namespace}/nix", BODY)
    with pytest.raises(Stalled, match="namespace"):
        await asyncio.to_thread(ask, "assistant", BODY)


async def test_offline_it_knows_teams_and_the_targets_of_their_roles(apiserver_with_crds: ApiServer, tmp_path: Path) -> None:
    """Through a context that is not the kubeconfig's present one."""
    namespace = f"explain-{uuid4().hex[:8]}"
    apiserver_with_crds.kubectl("create", "namespace", namespace, check=True)
    objects = the_objects(namespace, 8000, 443)
    objects[2]["spec"]["entrypoints"] = [{"name": namespace}, {"name": f"{namespace}/readers"}]
    roles = [{"name": "r", "modelFrom": {"modelPoolRef": {"name": "boss"}}, "sampling": {"maxTokens": 5}}]
    spec = {"roles": roles, "strategy": {"chain": {"steps": [{"name": "s", "role": "r"}]}}, "budget": {"perRun": {"tokens": 9, "wallClock": "1m"}}}
    team = {"apiVersion": "modelfleet.dev/v1alpha1", "kind": "AgentTeam", "metadata": {"name": "readers", "namespace": namespace}, "spec": spec}
    apiserver_with_crds.apply("\n---\n".join(json.dumps(o) for o in (*objects, team)))
    config = yaml.safe_load(apiserver_with_crds.kubeconfig.read_text())
    right = config["current-context"]
    config["clusters"].append({"name": "nowhere", "cluster": {"server": "http://127.0.0.1:1"}})
    config["contexts"].append({"name": "other", "context": {"cluster": "nowhere", "user": config["users"][0]["name"]}})
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config | {"current-context": "other"}))

    async def lines(model: str) -> list[str]:
        body = json.dumps({"model": model, "messages": []}).encode()
        return explain_lines(await asyncio.to_thread(explain_from_api, f"{namespace}/assistant", body, {}, tmp_path / "kubeconfig", right))[1:]

    name = f"{namespace}/readers"
    assert await lines(name) == [f"model {name}: team {name}, generation 1", "answer: the team runtime, which calls models for each role under grants"]
    target = f"pool:{namespace}/boss"
    assert await lines(target) == [
        f"model {target}: where roles of AgentTeams call, generation 1; each call needs a grant of the team runtime for this very name",
        "answer: HTTP 403 without a grant; ask a router (--router URL) what one is worth, since its keys are not read here",
    ]
    other = f"policy:{namespace}/assistant"
    assert await lines(other) == [f"model {other}: no role of any AgentTeam calls it, so the gateway has no such route", "answer: HTTP 404, model_not_found"]
    assert (await lines(namespace))[0] == f"model {namespace}: policy {namespace}/assistant, generation 1"


def test_a_router_that_does_not_answer_is_told() -> None:
    for url in ("http://127.0.0.1:1", "nonsense"):
        with pytest.raises(Unavailable, match="does not answer"):
            explain_from_router(url, BODY, {})
