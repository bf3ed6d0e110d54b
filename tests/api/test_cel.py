"""Every CEL rule on a real API server: one object that passes, one that is refused with the rule's own sentence."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel
from tests.api.door import BASES, CHAIN, CLASS, POLICY, POOL, TEAM, Door, but

from modelfleet.api.v1alpha1 import KINDS
from modelfleet.api.v1alpha1.common import Cel

NODES = "spec__nodes"
POD = {"name": "h100", "acceleratorClass": "nvidia-h100-80gb", "devices": 1}
REMOTE = POOL["spec"]["flavors"][1]


@dataclass(frozen=True)
class Case:
    """`message` belongs to exactly one rule of `model`; `good` passes it where it is at stake, `bad` breaks it."""

    model: str
    message: str
    good: dict[str, Any]
    bad: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.model}: {self.message}"


def node(**fields: Any) -> dict[str, Any]:
    return but(CLASS, **{NODES: [{"resource": "nvidia.com/gpu", **fields}]})


def label(operator: str, *values: str) -> dict[str, Any]:
    return node(matchExpressions=[{"key": "nvidia.com/gpu.memory", "operator": operator, **({"values": list(values)} if values else {})}])


def toleration(**fields: str) -> dict[str, Any]:
    return but(CLASS, spec__tolerations=[fields])


def rule(**fields: Any) -> dict[str, Any]:
    return but(POLICY, spec__rules=[{"name": "short", **fields}])


MAP_REDUCE = TEAM["spec"]["strategy"]["mapReduce"]


def map_reduce(**changes: Any) -> dict[str, Any]:
    return but(TEAM, **{f"spec__strategy__mapReduce__{path}": value for path, value in changes.items()})


def per_run(**fields: Any) -> dict[str, Any]:
    return but(TEAM, spec__budget__perRun=fields)


CASES = (
    Case(
        "LabelRequirement",
        "values: Exists and DoesNotExist take none, every other operator needs at least one",
        label("Exists"),
        label("In"),
    ),
    Case(
        "LabelRequirement",
        'values: Gte and Lt take exactly one whole number, such as ["79000"]',
        label("Gte", "79000"),
        label("Lt", "80Gi"),
    ),
    Case(
        "NodeEntry",
        "a cpu entry needs hardware, matchLabels or matchExpressions: without them every node would match",
        node(resource="cpu", matchLabels={"pool": "cpu"}),
        node(resource="cpu", matchLabels={}),
    ),
    Case(
        "NodeEntry",
        "a cpu entry needs hardware, matchLabels or matchExpressions: without them every node would match",
        node(resource="cpu", hardware={"catalogueId": "cpu"}),
        node(resource="cpu"),
    ),
    Case(
        "Hardware",
        "hardware.profile: only with unit MigSlice, VirtualGpu or Partition",
        node(hardware={"catalogueId": "a100-40gb", "unit": "MigSlice", "profile": "1g.5gb"}),
        node(hardware={"catalogueId": "a100-40gb", "profile": "1g.5gb"}),
    ),
    Case(
        "Toleration",
        "a toleration with operator Exists takes no value",
        toleration(key="a", operator="Exists"),
        toleration(key="a", operator="Exists", value="b"),
    ),
    Case("Toleration", "a toleration without key tolerates every taint and needs operator Exists", toleration(operator="Exists"), toleration(value="b")),
    Case(
        "AcceleratorClassSpec",
        "nodes: all entries of a class count one resource; make a class per resource",
        but(CLASS, **{NODES: [{"resource": "nvidia.com/gpu", "matchLabels": {"a": label}} for label in "bc"]}),
        but(CLASS, **{NODES: [{"resource": resource} for resource in ("nvidia.com/gpu", "amd.com/gpu")]}),
    ),
    Case(
        "AcceleratorClass",
        "metadata.name: at most 63 characters, so that it fits a node label",
        but(CLASS, metadata__name="c" * 63),
        but(CLASS, metadata__name="c" * 64),
    ),
    Case(
        "Resources",
        "resources.requests: cpu, memory and ephemeral-storage only; devices are added by the flavor",
        but(POOL, spec__engine__resources={"requests": {"cpu": "2", "memory": "4Gi"}}),
        but(POOL, spec__engine__resources={"requests": {"nvidia.com/gpu": "1"}}),
    ),
    Case(
        "Resources",
        "resources.limits: cpu, memory and ephemeral-storage only; devices are added by the flavor",
        but(POOL, spec__engine__resources={"limits": {"memory": "4Gi"}}),
        but(POOL, spec__flavors=[{**POD, "engine": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}]),
    ),
    Case(
        "Engine",
        "engine.image: required when engine.type is Custom",
        but(POOL, spec__engine={"type": "Custom", "image": "registry.example.com/server:1"}),
        but(POOL, spec__engine={"type": "Custom"}),
    ),
    Case(
        "Flavor",
        "a flavor has exactly one of acceleratorClass and endpoint",
        but(POOL, spec__flavors=[POD, REMOTE]),
        but(POOL, spec__flavors=[{"name": "neither"}]),
    ),
    Case(
        "Flavor",
        "a flavor has exactly one of acceleratorClass and endpoint",
        but(POOL, spec__flavors=[POD]),
        but(POOL, spec__flavors=[{**REMOTE, "acceleratorClass": "nvidia-h100-80gb"}]),
    ),
    *(
        Case(
            "Flavor",
            "an endpoint flavor carries no devices, engine, capacity or max: those describe pods",
            but(POOL, spec__flavors=[REMOTE]),
            but(POOL, spec__flavors=[{**REMOTE, field: value}]),
        )
        for field, value in (("devices", 1), ("engine", {"args": ["-x"]}), ("capacity", {"concurrency": 2}), ("max", 3))
    ),
    Case(
        "Placement",
        "placement.pendingTimeout: at least 5s",
        but(POOL, spec__placement={"pendingTimeout": "5s"}),
        but(POOL, spec__placement={"pendingTimeout": "4s999ms"}),
    ),
    Case(
        "Scaling",
        "scaling.min must not exceed scaling.max",
        but(POOL, spec__scaling={"min": 1, "max": 1}),
        but(POOL, spec__scaling={"min": 101}),
    ),
    Case("Drain", "drain.timeout: at most 1h", but(POOL, spec__drain={"timeout": "60m"}), but(POOL, spec__drain={"timeout": "1h1ms"})),
    Case(
        "ModelPoolSpec",
        "replicas must lie between scaling.min and scaling.max",
        but(POOL, spec__scaling={"min": 2, "max": 4}, spec__replicas=4),
        but(POOL, spec__scaling={"min": 2, "max": 4}, spec__replicas=5),
    ),
    Case(
        "ModelPoolSpec",
        "replicas must lie between scaling.min and scaling.max",
        but(POOL, spec__scaling={"min": 2, "max": 4}, spec__replicas=2),
        but(POOL, spec__scaling={"min": 2, "max": 4}),
    ),
    Case(
        "ModelPool",
        "spec.engine: required when a flavor runs pods",
        but(POOL, spec__flavors=[REMOTE], spec__engine=None),
        but(POOL, spec__engine=None),
    ),
    Case(
        "ModelPool",
        "metadata.name: at most 40 characters, so that names of children fit",
        but(POOL, metadata__name="p" * 40),
        but(POOL, metadata__name="p" * 41),
    ),
    Case(
        "Range",
        "inputTokens.min must not exceed inputTokens.max",
        rule(match={"inputTokens": {"min": 5, "max": 5}}),
        rule(match={"inputTokens": {"min": 6, "max": 5}}),
    ),
    Case(
        "Rule",
        "a rule has candidates or weights, not both",
        rule(weights=[{"candidate": "small", "percent": 100}]),
        rule(candidates=["small"], weights=[{"candidate": "small", "percent": 100}]),
    ),
    Case(
        "Rule",
        "weights must add up to 100",
        rule(weights=[{"candidate": "small", "percent": 5}, {"candidate": "boss", "percent": 95}]),
        rule(weights=[{"candidate": "small", "percent": 5}, {"candidate": "boss", "percent": 94}]),
    ),
    Case(
        "Fallback",
        "fallback.firstByteTimeout: at least 100ms",
        but(POLICY, spec__fallback={"firstByteTimeout": "100ms"}),
        but(POLICY, spec__fallback={"firstByteTimeout": "0s"}),
    ),
    Case(
        "Fallback",
        "fallback.firstByteTimeout must not exceed fallback.totalTimeout",
        but(POLICY, spec__fallback={"totalTimeout": "20s"}),
        but(POLICY, spec__fallback={"totalTimeout": "19s"}),
    ),
    Case(
        "RoutingPolicySpec",
        "default.chain names a candidate that is not in candidates",
        but(POLICY, spec__default={"chain": ["small", "boss"]}),
        but(POLICY, spec__default={"chain": ["boss", "bos"]}),
    ),
    Case(
        "RoutingPolicySpec",
        "default.chain names a candidate twice",
        but(POLICY, spec__default={"chain": ["boss", "small"]}),
        but(POLICY, spec__default={"chain": ["boss", "small", "boss"]}),
    ),
    Case(
        "RoutingPolicySpec",
        "a rule's candidates name one that is not in candidates",
        rule(candidates=["boss"]),
        rule(candidates=["boss", "smal"]),
    ),
    Case(
        "RoutingPolicySpec",
        "a rule's weights name a candidate that is not in candidates",
        rule(weights=[{"candidate": "boss", "percent": 100}]),
        rule(weights=[{"candidate": "big", "percent": 100}]),
    ),
    Case(
        "RoutingPolicySpec",
        "an entrypoint pins a rule that is not in rules",
        but(POLICY, spec__entrypoints=[{"name": "auto"}, {"name": "fast", "rule": "short"}]),
        but(POLICY, spec__entrypoints=[{"name": "auto", "rule": "short"}], spec__rules=None),
    ),
    Case(
        "RoutingPolicySpec",
        "an entrypoint pins a rule that is not in rules",
        but(POLICY, spec__rules=None),
        but(POLICY, spec__entrypoints=[{"name": "auto", "rule": "shorter"}]),
    ),
    Case(
        "ModelFrom",
        "modelFrom: exactly one of modelPoolRef and routingPolicyRef",
        but(TEAM, spec__roles__0__modelFrom={"modelPoolRef": {"name": "boss"}}),
        but(TEAM, spec__roles__0__modelFrom={"modelPoolRef": {"name": "boss"}, "routingPolicyRef": {"name": "assistant"}}),
    ),
    Case(
        "ModelFrom",
        "modelFrom: exactly one of modelPoolRef and routingPolicyRef",
        TEAM,
        but(TEAM, spec__roles__0__modelFrom={}),
    ),
    Case(
        "Strategy",
        "strategy: exactly one of chain and mapReduce",
        TEAM,
        but(CHAIN, spec__roles=[*CHAIN["spec"]["roles"], *TEAM["spec"]["roles"]], spec__strategy__mapReduce=MAP_REDUCE),
    ),
    Case("Strategy", "strategy: exactly one of chain and mapReduce", CHAIN, but(CHAIN, spec__strategy={})),
    Case(
        "Split",
        "split: Chunk needs tokens, and overlap at most half of them",
        map_reduce(split={"tokens": 100, "overlap": 50}),
        map_reduce(split={"tokens": 100, "overlap": 51}),
    ),
    Case(
        "Split",
        "split: Chunk needs tokens, and overlap at most half of them",
        map_reduce(split={"by": "Lines"}),
        map_reduce(split={"by": "Chunk"}),
    ),
    Case(
        "MapReduce",
        "mapReduce: onBranchFailure Escalate needs escalateTo",
        map_reduce(onBranchFailure="Escalate", escalateTo="boss"),
        map_reduce(onBranchFailure="Escalate"),
    ),
    Case(
        "MapReduce",
        "mapReduce: exactly one of reduce and reducer",
        map_reduce(reduce=None, reducer="Concat"),
        map_reduce(reducer="Concat"),
    ),
    Case("MapReduce", "mapReduce: exactly one of reduce and reducer", TEAM, map_reduce(reduce=None)),
    Case("PerRun", "budget.perRun: cost or tokens is required", per_run(cost="0.50", wallClock="120s"), per_run(wallClock="120s")),
    Case("PerRun", "budget.perRun: cost or tokens is required", per_run(tokens=1000, wallClock="120s"), per_run(wallClock="120s", modelCalls=3)),
    Case("PerRun", "budget.perRun.wallClock: between 1s and 4h", per_run(cost="0.50", wallClock="4h"), per_run(cost="0.50", wallClock="24h")),
    Case(
        "PerRun",
        "budget.perRun.wallClock: between 1s and 4h",
        but(CHAIN, spec__budget__perRun__wallClock="1s", **{f"spec__roles__{n}__timeout": "1s" for n in range(3)}),
        but(CHAIN, spec__budget__perRun__wallClock="999ms", **{f"spec__roles__{n}__timeout": "1ms" for n in range(3)}),
    ),
    Case(
        "Expose", "expose: at least one door; openai is the one there is", but(TEAM, spec__expose={"openai": True}), but(TEAM, spec__expose={"openai": False})
    ),
    Case(
        "AgentTeamSpec",
        "strategy.chain: a step names a role that is not in roles",
        CHAIN,
        but(CHAIN, spec__strategy__chain__steps__2__role="writr"),
    ),
    Case("AgentTeamSpec", "strategy.mapReduce.map names a role that is not in roles", map_reduce(map={"role": "boss"}), map_reduce(map={"role": "readr"})),
    Case(
        "AgentTeamSpec",
        "strategy.mapReduce.plan names a role that is not in roles",
        map_reduce(plan={"role": "reader"}),
        map_reduce(plan={"role": "bos"}),
    ),
    Case(
        "AgentTeamSpec",
        "strategy.mapReduce.reduce names a role that is not in roles",
        map_reduce(reduce={"role": "reader"}),
        map_reduce(reduce={"role": "bos"}),
    ),
    Case(
        "AgentTeamSpec",
        "strategy.mapReduce.escalateTo names a role that is not in roles",
        map_reduce(escalateTo="boss"),
        map_reduce(escalateTo="bos"),
    ),
    Case(
        "AgentTeamSpec",
        "roles: a timeout exceeds budget.perRun.wallClock",
        but(TEAM, spec__roles__0__timeout="120s"),
        but(TEAM, spec__roles__1__timeout="300s"),
    ),
    Case(
        "AgentTeam",
        "metadata.name: a DNS label of at most 63 characters",
        but(TEAM, metadata__name="t" * 63),
        but(TEAM, metadata__name="t" * 64),
    ),
    Case("AgentTeam", "metadata.name: a DNS label of at most 63 characters", but(TEAM, metadata__name="review"), but(TEAM, metadata__name="review.v2")),
)
IMMUTABLE = "model.name is immutable: clients know the pool by it; make a new pool"


def models_of(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    if model in seen:
        return
    seen.add(model)
    yield model
    for field in model.model_fields.values():
        yield from models_in(field.annotation, seen)


def models_in(annotation: Any, seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from models_of(annotation, seen)
    for inner in typing.get_args(annotation):
        yield from models_in(inner, seen)


def marks() -> Iterator[tuple[str, Cel]]:
    seen: set[type[BaseModel]] = set()
    for kind in KINDS:
        for model in models_of(kind, seen):
            for mark in getattr(model, "cel", ()):
                yield model.__name__, mark


def messages(body: dict[str, Any]) -> list[str]:
    return [cause["message"] for cause in body["details"]["causes"]]


def test_every_rule_is_tried_here_and_nothing_else_is() -> None:
    written = [(model, mark.message) for model, mark in marks()]
    assert len(set(written)) == len(written), "two rules of one model share a message: a user could not tell them apart"
    assert {(case.model, case.message) for case in CASES} | {("ModelPoolSpec", IMMUTABLE)} == set(written)


@pytest.mark.parametrize("base", [*BASES.values(), CHAIN], ids=[*BASES.keys(), "AgentTeam, a chain"])
def test_the_objects_that_the_cases_change_are_accepted(door: Door, base: dict[str, Any]) -> None:
    assert door.create(base)[0] == 201


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rule_accepts_and_refuses(door: Door, case: Case) -> None:
    code, body = door.create(case.good)
    assert code == 201, body
    code, body = door.create(case.bad)
    assert code == 422, f"accepted: {body}"
    assert any(case.message in told for told in messages(body)), messages(body)


def test_the_name_of_the_model_cannot_change_and_the_rest_can(door: Door) -> None:
    pool = but(POOL, metadata__name="immutable")
    assert door.create(pool, dry_run=False)[0] == 201
    try:
        code, body = door.update(but(pool, spec__model__source="image:///models/other.gguf", spec__replicas=3))
        assert code == 200, body
        code, body = door.update(but(pool, spec__model__name="other"))
        assert code == 422
        assert any(IMMUTABLE in told for told in messages(body)), messages(body)
    finally:
        door.delete(pool)
