"""The kinds on a real API server: defaults where users see them, columns, the scale subresource, and models that read it all back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.api.door import BASES, CHAIN, CLASS, POLICY, POOL, TEAM, Door, but, kind_of
from tests.support.apiserver import ApiServer

from modelfleet.api.parse import parse
from modelfleet.api.v1alpha1 import KINDS, AcceleratorClass, AgentTeam, Kind, ModelPool, RoutingPolicy
from modelfleet.api.v1alpha1.acceleratorclass import AcceleratorClassStatus, DeviceCounts
from modelfleet.api.v1alpha1.agentteam import AgentTeamStatus, Bounds, RoleStatus, WorstPrice
from modelfleet.api.v1alpha1.common import Condition
from modelfleet.api.v1alpha1.modelpool import Cost, FlavorPrice, FlavorStatus, LastDecision, ModelPoolStatus, PerMillionTokens, Reason
from modelfleet.api.v1alpha1.routingpolicy import GatewayStatus, RoutingPolicyStatus

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
READY = Condition(type="Ready", status="True", reason="Serving", message="one replica serves", last_transition_time=NOW, observed_generation=1)
STATUSES: dict[str, Any] = {
    "ModelPool": ModelPoolStatus(
        observed_generation=1,
        replicas=2,
        ready="2/2",
        flavor_summary="h100:1 burst",
        decision_reason="Preferred",
        selector="modelfleet.dev/pool=boss",
        served_names=["boss"],
        tokens_per_second="2500",
        flavors=[
            FlavorStatus(name="h100", desired=2, ready=2, capacity_source="Declared", cost_per_hour="13.76", free_since=NOW, reason="Preferred"),
            FlavorStatus(name="burst", reachable=False, retry_after=NOW, reason="KeyRefused", message="401"),
        ],
        cost=Cost(per_hour="13.76", per_million_tokens=PerMillionTokens(live="0.83")),
        price=[FlavorPrice(flavor="h100", input_per_million="0.21", output_per_million="0.95")],
        last_decision=LastDecision(time=NOW, summary="0 -> 2 replicas", reasons=[Reason(code="Preferred", flavor="h100", detail="2 devices free")]),
        conditions=[READY],
    ),
    "AcceleratorClass": AcceleratorClassStatus(observed_generation=1, nodes=12, devices=DeviceCounts(capacity=96, allocatable=96, free=8), conditions=[READY]),
    "RoutingPolicy": RoutingPolicyStatus(
        observed_generation=1,
        entrypoints="auto",
        acknowledged="1/2",
        conditions=[READY],
        gateways=[GatewayStatus(name="gw-0", generation=1, version="5f1c9a", acknowledged_at=NOW), GatewayStatus(name="gw-1", rejected="no such cluster")],
    ),
    "AgentTeam": AgentTeamStatus(
        observed_generation=1,
        revision="r-5f0c2e91ab",
        strategy="mapReduce",
        model_names=["default/readers", "readers"],
        roles=[
            RoleStatus(
                name="boss", target="policy:default/assistant", ready=True, candidates=2, worst_price=WorstPrice(input_per_million="3", output_per_million="15")
            ),
            RoleStatus(name="reader", target="pool:default/small"),
        ],
        bounds=Bounds(max_model_calls=415, worst_cost="1.142", minimum_cost="0.116"),
        conditions=[READY],
        gateways=[GatewayStatus(name="gw-0", generation=1, version="5f1c9a", acknowledged_at=NOW)],
    ),
}


@pytest.fixture(params=BASES.values(), ids=BASES.keys())
def stored(door: Door, request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """One object of each kind with its status, as the API server returns it."""
    obj = but(request.param, metadata__name="kinds")
    code, body = door.create(obj, dry_run=False)
    assert code == 201, body
    code, body = door.update({**obj, "status": STATUSES[obj["kind"]].to_wire()}, part="/status")
    assert code == 200, body
    yield body
    door.delete(obj)


def test_a_model_reads_back_what_the_server_stored(stored: dict[str, Any]) -> None:
    kind = kind_of(stored["kind"])
    read = parse(kind, stored)
    assert isinstance(read, kind)
    assert read.status == STATUSES[kind.KIND]  # type: ignore[attr-defined]
    assert read.metadata.uid == stored["metadata"]["uid"]
    assert read.status.to_wire() == stored["status"]  # type: ignore[attr-defined]


def test_the_defaults_of_the_schema_are_the_defaults_of_the_model(stored: dict[str, Any]) -> None:
    kind: type[Kind] = kind_of(stored["kind"])
    sent = parse(kind, but(BASES[kind.KIND], metadata__name="kinds"))
    read = parse(kind, stored)
    assert isinstance(sent, kind)
    assert isinstance(read, kind)
    assert read.spec == sent.spec  # type: ignore[attr-defined]
    assert read.spec.model_dump(by_alias=True, exclude_none=True, mode="json") == stored["spec"]  # type: ignore[attr-defined]


def test_an_update_of_the_spec_does_not_touch_the_status(door: Door, stored: dict[str, Any]) -> None:
    code, body = door.update({**stored, "status": {"observedGeneration": 99}})
    assert code == 200
    assert body["status"] == stored["status"]


def test_defaults_appear_where_users_see_them(door: Door) -> None:
    pool = door.create(but(POOL, spec__scaling={"max": 7}))[1]["spec"]
    assert pool["placement"] == {"policy": "Ordered", "pendingTimeout": "90s", "migrateBack": {"after": "10m"}}
    assert pool["scaling"] == {"mode": "Manual", "min": 0, "max": 7}
    assert pool["drain"] == {"timeout": "30s"}
    assert pool["replicas"] == 1
    assert pool["engine"]["healthPath"] == "/health"
    assert pool["flavors"][1]["endpoint"]["concurrency"] == 32
    policy = door.create(but(POLICY, spec__rules=[{"name": "all"}]))[1]["spec"]
    assert policy["fallback"] == {
        "retryOn": ["Connect", "ResetBeforeByte", "Status429", "Status503", "FirstByteTimeout"],
        "maxAttempts": 3,
        "firstByteTimeout": "20s",
        "totalTimeout": "10m",
    }
    assert policy["default"]["onDeciderLoss"] == "Static"
    assert policy["candidates"][0]["capabilities"] == {"tools": True, "json": True, "vision": False}
    assert policy["rules"] == [{"name": "all", "match": {"tools": "Any"}}]
    assert door.create(CLASS)[1]["spec"]["price"]["currency"] == "USD"
    chain = door.create(but(CHAIN, spec__journal=None))[1]["spec"]
    retry_on = ["Timeout", "RateLimited", "ServerError", "InvalidOutput"]
    assert chain["roles"][1]["retries"] == {"max": 1, "backoff": "500ms", "retryOn": retry_on}
    assert chain["roles"][0] == {
        **CHAIN["spec"]["roles"][0],
        "instructions": "",
        "timeout": "60s",
        "maxConcurrent": 4,
        "retries": {"max": 2, "backoff": "500ms", "retryOn": retry_on},
    }
    assert chain["strategy"]["chain"]["steps"][0] == {"name": "triage", "role": "clerk", "input": "${input}", "onFailure": "Fail"}
    assert chain["budget"] == {"perRun": {"tokens": 20000, "wallClock": "5m", "modelCalls": 1000}, "onExhausted": "Fail"}
    assert {name: chain[name] for name in ("description", "suspend", "limits", "expose", "journal")} == {
        "description": "",
        "suspend": False,
        "limits": {"maxRuns": 50, "queue": 200},
        "expose": {"openai": True},
        "journal": {"content": "Full", "ttl": "72h"},
    }
    reading = door.create(but(TEAM, spec__strategy__mapReduce={"split": {"by": "Lines"}, "map": {"role": "reader"}, "reduce": {"role": "boss"}}))[1]["spec"]
    assert reading["strategy"]["mapReduce"] == {
        "split": {"by": "Lines", "overlap": 0, "maxItems": 200},
        "map": {"role": "reader"},
        "reduce": {"role": "boss", "fanIn": 32},
        "minSuccessful": "100%",
        "onBranchFailure": "Continue",
    }


def test_the_schema_of_an_answer_is_kept_as_it_was_written(door: Door) -> None:
    odd = {"type": "object", "x-anything": [1, {"a": None}], "properties": {"n": {"type": "number", "minimum": 0.5}}}
    code, body = door.create(but(TEAM, spec__roles__1__outputSchema=odd))
    assert code == 201, body
    assert body["spec"]["roles"][1]["outputSchema"] == odd
    read = parse(AgentTeam, body)
    assert isinstance(read, AgentTeam)
    assert read.spec.roles[1].output_schema == odd


def test_columns_show_one_scalar_each(apiserver_with_crds: ApiServer, stored: dict[str, Any]) -> None:
    kind = kind_of(stored["kind"])
    header, row, *_ = apiserver_with_crds.kubectl("get", kind.PLURAL, "kinds", check=True).stdout.splitlines()
    assert header.split() == ["NAME", *(column.name.upper() for column in kind.COLUMNS if not column.priority)]
    shown = {
        "ModelPool": "boss 2/2 h100:1 burst 2500 13.76 0.83 Preferred",
        "AcceleratorClass": "NVIDIA H100-SXM-80GB 12 8 6.88 True",
        "RoutingPolicy": "True auto 1/2",
        "AgentTeam": "mapReduce True 1.142",
    }
    assert " ".join(row.split()[1:-1]) == shown[kind.KIND]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.KIND)
def test_short_names_and_the_category_are_served(apiserver_with_crds: ApiServer, kind: type[Kind]) -> None:
    for name in (kind.SHORT, kind.KIND.lower(), "modelfleet"):
        assert apiserver_with_crds.kubectl("get", name, "-A").returncode == 0


def test_scale_moves_replicas_within_the_bounds_and_is_refused_beyond(apiserver_with_crds: ApiServer, door: Door) -> None:
    pool = but(POOL, metadata__name="scaled", spec__scaling={"min": 1, "max": 5})
    assert door.create(pool, dry_run=False)[0] == 201
    try:
        door.update({**pool, "status": {"replicas": 1, "selector": "modelfleet.dev/pool=scaled"}}, part="/status")
        apiserver_with_crds.kubectl("scale", "modelpool/scaled", "--replicas=4", check=True)
        assert apiserver_with_crds.get("modelpool", "scaled")["spec"]["replicas"] == 4
        for beyond in ("999", "0"):
            answer = apiserver_with_crds.kubectl("scale", "modelpool/scaled", f"--replicas={beyond}")
            assert answer.returncode != 0
            assert "replicas must lie between scaling.min and scaling.max" in answer.stderr
        assert apiserver_with_crds.get("modelpool", "scaled")["spec"]["replicas"] == 4
    finally:
        door.delete(pool)


def test_kinds_are_what_the_group_serves() -> None:
    assert set(KINDS) == {AcceleratorClass, AgentTeam, ModelPool, RoutingPolicy}
