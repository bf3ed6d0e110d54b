"""`modelfleet explain request`: from the API server's objects and from a router, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

import pytest
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


def test_a_router_that_does_not_answer_is_told() -> None:
    for url in ("http://127.0.0.1:1", "nonsense"):
        with pytest.raises(Unavailable, match="does not answer"):
            explain_from_router(url, BODY, {})
