"""The decider's answers as bytes: what Envoy reads is what explain says, on any request; nothing a client wrote is remembered."""

from __future__ import annotations

import json
import random
from typing import Any

import grpc
import msgspec
import pytest
import yaml
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from google.protobuf import json_format
from starlette.testclient import TestClient
from tests.core.routing.deciding import a_plan
from tests.support.envoy import remove, short_dir
from tests.support.golden import GOLDEN

from modelfleet.core.routing.ir import RoutingPlan
from modelfleet.router.authz import Decider, decision_json
from modelfleet.router.explain import explain_lines, explain_with
from modelfleet.router.http import http_app
from modelfleet.router.metrics import RouterMetrics


def the_plan() -> RoutingPlan:
    return a_plan(yaml.safe_load((GOLDEN / "decide" / "assistant.in.yaml").read_text()))


def a_check(body: bytes, headers: dict[str, str], lifted: str | None = None, policy: str = "shop/p") -> Any:
    request = external_auth_pb2.CheckRequest()
    http = request.attributes.request.http
    http.raw_body = body
    http.headers.update(headers)
    request.attributes.context_extensions["policy"] = policy
    if lifted is not None:
        request.attributes.metadata_context.filter_metadata["modelfleet.request"]["model"] = lifted
    return request


def answer_of(decider: Decider, request: Any) -> Any:
    answer = decider.check(request)
    return None if answer is None else external_auth_pb2.CheckResponse.FromString(answer)


def a_random_request(dice: random.Random) -> tuple[bytes, dict[str, str]]:
    body: dict[str, Any] = {"model": dice.choice(["auto", "auto", "auto", "fast", "nix"])}
    body["messages"] = [{"role": "user", "content": "wörd " * dice.choice([1, 10, 100, 2000])} for _ in range(dice.randrange(4))]
    for key, value in (
        ("tools", [{"type": "function"}]), ("response_format", {"type": "json_object"}), ("max_tokens", dice.choice([10, 3000, 9000])), ("stream", True),
        ("user", str(dice.randrange(50))), ("metadata", {"model": "auto"}), ("max_completion_tokens", "many"),
    ):  # fmt: skip
        if dice.random() < (0.05 if value == "many" else 0.3):
            body |= {key: value}
    items = list(body.items())
    dice.shuffle(items)
    text = json.dumps(dict(items)).encode()
    headers = {"x-request-id": f"r-{dice.randrange(10**9)}", "content-length": str(len(text))}
    if dice.random() < 0.4:
        headers["x-canary"] = dice.choice("12")
    if dice.random() < 0.3:
        headers["x-modelfleet-session"] = str(dice.randrange(50))
    if dice.random() < 0.1:
        headers["x-envoy-auth-partial-body"] = "true"
        text = text[:40]
    return (text[:-3] if dice.random() < 0.03 else text), headers


def test_explain_equals_the_data_path_on_a_thousand_random_requests() -> None:
    decider, dice, plan = Decider(), random.Random(7), the_plan()
    decider.use(plan)
    client = TestClient(http_app(decider, RouterMetrics().registry, ready=lambda: True))
    seen = set()
    for number in range(1000):
        over_http = number % 5 == 0  # the doors add nothing to a decision, and cost more than it
        body, headers = a_random_request(dice)
        lifted = "auto" if headers.get("x-envoy-auth-partial-body") else None
        answer = answer_of(decider, a_check(body, headers, lifted))
        remembered = decider.recall(headers["x-request-id"])
        assert remembered is not None
        told = msgspec.json.decode(msgspec.json.encode(decision_json(remembered)))
        if over_http:
            assert client.get("/explain", params={"id": headers["x-request-id"]}).json() == told
        if lifted is None:
            live = client.post("/explain?policy=shop/p", content=body, headers=headers).json() if over_http else told
            offline = explain_with(plan, "shop/p", body, headers)
            same = ("model", "policy", "rule", "why", "chain", "groups", "refusal", "trail", "features", "explanation")
            assert {k: live[k] for k in same} == {k: told[k] for k in same} == {k: offline[k] for k in same}
            assert explain_lines(told)[1:] == told["explanation"]
        seen.add((told["why"], told["rule"], tuple(told["chain"])))
        assert (answer is None) == (told["why"] == "NotProgrammed")
        if answer is None:
            continue
        metadata = json_format.MessageToDict(answer.dynamic_metadata)
        assert (metadata["id"], metadata["policy"]) == (headers["x-request-id"], told["policy"])
        if told["refusal"]:
            assert answer.status.code == 7
            assert (answer.denied_response.status.code, json.loads(answer.denied_response.body)["error"]["code"]) == (
                told["refusal"]["status"], told["refusal"]["code"],
            )  # fmt: skip
            assert "priority_groups" not in metadata
        else:
            assert [group["name"] for group in metadata.get("priority_groups", [])] == told["groups"]
            assert all(set(group) == {"name"} for group in metadata.get("priority_groups", []))
            added = {option.header.key: option.header.value for option in answer.ok_response.response_headers_to_add}
            assert added == {"x-modelfleet-decision": told["header"]}
            assert metadata["rule"] == (told["rule"] or "")
            sent = {option.header.key: option.header.value for option in answer.ok_response.headers}
            assert sent.pop("x-modelfleet-model-span") == metadata["span"]
            assert sent == {}
            start, end = map(int, metadata["span"].split(","))
            assert lifted or json.loads(body[start:end]) == told["model"]
    assert {why for why, _, _ in seen} == {
        "RuleMatched", "RulePinned", "DefaultChain", "Weighted", "NotProgrammed", "NoCapableCandidate", "MalformedBody", "BodyCut",
    }  # fmt: skip


def test_lengths_of_any_size_are_written_as_protobuf_reads_them() -> None:
    decider = Decider()
    decider.use(the_plan())
    for session in (1, 100, 300, 20_000):
        body = json.dumps({"pad": "x" * session, "model": "auto", "messages": []}).encode()
        answer = answer_of(decider, a_check(body, {"x-request-id": "a" * min(session, 64)}))
        metadata = json_format.MessageToDict(answer.dynamic_metadata)
        assert metadata["id"] == "a" * min(session, 64)
        start, end = map(int, metadata["span"].split(","))
        assert body[start:end] == b'"auto"'
        assert answer.ok_response.response_headers_to_add[0].append_action == 2


def test_an_id_that_cannot_stand_in_a_header_is_hashed() -> None:
    decider = Decider()
    decider.use(the_plan())
    for given in ("", "a;policy=evil", "x\r\ny: z", "b" * 65, "ü"):
        metadata = json_format.MessageToDict(answer_of(decider, a_check(b'{"model":"auto"}', {"x-request-id": given})).dynamic_metadata)
        assert len(metadata["id"]) == 16
        assert metadata["id"].isalnum()


def test_the_last_ten_thousand_decisions_are_remembered_without_a_word_of_their_text() -> None:
    decider = Decider()
    decider.use(the_plan())
    body = b'{"model":"auto","user":"alice-42","messages":[{"role":"user","content":"my secret is 4711"}]}'
    request = a_check(body, {"x-modelfleet-session": "session-99", "x-app": "app-header"})
    for number in range(10_001):
        request.attributes.request.http.headers["x-request-id"] = f"n{number}"
        decider.check(request)
    assert decider.recall("n0") is None
    remembered = decider.recall("n10000")
    assert remembered is not None
    assert not any(word in repr((decider.recall("n1"), remembered)) for word in ("4711", "alice", "session-99", "app-header"))


async def test_a_check_over_the_socket_is_answered_and_a_decider_that_cannot_decide_answers_nothing() -> None:
    """An error must reach Envoy as a lost decider: an OK would let strict routes through."""
    took: list[float] = []
    decider, folder = Decider(took.append), short_dir()
    decider.use(the_plan())
    server = grpc.aio.server()
    decider.add_to(server)
    server.add_insecure_port(f"unix:{folder}/authz.sock")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{folder}/authz.sock") as channel:
            stub = external_auth_pb2_grpc.AuthorizationStub(channel)
            answer = await stub.Check(a_check(b'{"model":"auto","messages":[]}', {"x-request-id": "1"}, "auto"))
            assert answer.ok_response.response_headers_to_add[0].header.value == "id=1;policy=shop/p/7;rule=short;chain=small,boss;why=RuleMatched"
            assert len(took) == 1
            for broken, code in (({"auto": "broken"}, grpc.StatusCode.UNKNOWN), ({}, grpc.StatusCode.UNAVAILABLE)):
                decider._table = broken
                with pytest.raises(grpc.aio.AioRpcError) as lost:
                    await stub.Check(a_check(b'{"model":"auto","messages":[]}', {"x-request-id": "2"}, "auto"))
                assert lost.value.code() is code
    finally:
        await server.stop(None)
        remove(folder)


def test_a_route_of_another_policy_is_left_to_itself() -> None:
    decider = Decider()
    decider.use(the_plan())
    assert answer_of(decider, a_check(b'{"model":"auto"}', {"x-request-id": "1"}, "auto", policy="shop/older")) is None
    remembered = decider.recall("1")
    assert remembered is not None
    assert remembered.decision.header == "id=1;policy=shop/older/0;rule=-;chain=;why=NotProgrammed"
