"""What the schema itself refuses, on a real API server; and that every field a user writes is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.api.door import BASES, CHAIN, CLASS, POLICY, POOL, TEAM, Door, but, kind_of

from modelfleet.api.crdgen import crd
from modelfleet.api.parse import InvalidObject, parse
from modelfleet.api.v1alpha1 import KINDS, Kind

FLAVOR = POOL["spec"]["flavors"][0]
PRICE = "spec__flavors__1__endpoint__price__inputPerMillion"

REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("money with a sign", but(POOL, **{PRICE: "-1"}), "spec.flavors[1].endpoint.price.inputPerMillion"),
    ("money with seven decimals", but(POOL, **{PRICE: "0.1234567"}), "inputPerMillion"),
    ("money as a number", but(POOL, **{PRICE: 0.2}), "must be of type string"),
    ("money with a currency", but(CLASS, spec__price__perDeviceHour="$6.88"), "spec.price.perDeviceHour"),
    ("another currency", but(CLASS, spec__price__currency="EUR"), 'supported values: "USD"'),
    ("a duration in days", but(POOL, spec__drain={"timeout": "1d"}), "spec.drain.timeout"),
    ("a duration without a unit", but(POOL, spec__placement={"pendingTimeout": "90"}), "spec.placement.pendingTimeout"),
    ("a fraction of a second", but(POLICY, spec__fallback={"firstByteTimeout": "1.5s"}), "spec.fallback.firstByteTimeout"),
    ("an unknown engine", but(POOL, spec__engine__type="Ollama"), 'supported values: "LlamaCpp", "VLLM", "Custom"'),
    ("an unknown policy of placement", but(POOL, spec__placement={"policy": "Cheapest"}), 'supported values: "Ordered"'),
    ("an unknown trigger", but(POLICY, spec__fallback={"retryOn": ["Status400"]}), "spec.fallback.retryOn[0]"),
    ("nine flavors", but(POOL, spec__flavors=[{**FLAVOR, "name": f"f{n}"} for n in range(9)]), "must have at most 8 items"),
    ("no flavor", but(POOL, spec__flavors=[]), "should have at least 1 items"),
    ("two flavors of one name", but(POOL, spec__flavors=[FLAVOR, FLAVOR]), "Duplicate value"),
    ("a flavor's name in capitals", but(POOL, spec__flavors__0__name="H100"), "spec.flavors[0].name"),
    ("zero devices", but(POOL, spec__flavors__0__devices=0), "spec.flavors[0].devices"),
    ("a negative number of replicas", but(POOL, spec__replicas=-1), "spec.replicas"),
    ("a source of unknown scheme", but(POOL, spec__model__source="ftp://host/model"), "spec.model.source"),
    ("a relative path of health", but(POOL, spec__engine__healthPath="health"), "spec.engine.healthPath"),
    ("a path of health with a query", but(POOL, spec__engine__healthPath="/health?x=1"), "spec.engine.healthPath"),
    ("an endpoint without scheme", but(POOL, spec__flavors__1__endpoint__url="api.example.com/v1"), "spec.flavors[1].endpoint.url"),
    ("an endpoint with credentials in its address", but(POOL, spec__flavors__1__endpoint__url="https://a:b@example.com"), "spec.flavors[1].endpoint.url"),
    ("an endpoint without a price", but(POOL, spec__flavors__1__endpoint={"url": "https://example.com", "model": "m"}), "endpoint.price"),
    ("a quantity with a blank", but(POOL, spec__engine__resources={"requests": {"cpu": "2 cores"}}), "spec.engine.resources.requests.cpu"),
    ("no model", but(POOL, spec__model=None), "spec.model: Required value"),
    ("no spec", but(POOL, spec=None), "spec: Required value"),
    ("a resource that no device plugin offers", but(CLASS, spec__nodes=[{"resource": "gpu"}]), "spec.nodes[0].resource"),
    ("no entry for nodes", but(CLASS, spec__nodes=[]), "spec.nodes"),
    ("a header in capitals", but(POLICY, spec__rules__0__match={"headers": [{"name": "X-App", "value": "a"}]}), "headers[0].name"),
    ("an empty default chain", but(POLICY, spec__default={"chain": []}), "spec.default.chain"),
    ("no default", but(POLICY, spec__default=None), "spec.default: Required value"),
    ("two entrypoints of one name", but(POLICY, spec__entrypoints=[{"name": "auto"}, {"name": "auto"}]), "Duplicate value"),
    ("a weight above 100", but(POLICY, spec__rules=[{"name": "r", "weights": [{"candidate": "boss", "percent": 101}]}]), "percent"),
    ("a role without a limit on its tokens", but(TEAM, spec__roles__0__sampling={"temperature": "0"}), "spec.roles[0].sampling.maxTokens: Required value"),
    ("a temperature as a number", but(TEAM, spec__roles__0__sampling__temperature=0.2), "must be of type string"),
    ("a temperature of three", but(TEAM, spec__roles__0__sampling__temperature="3"), "spec.roles[0].sampling.temperature"),
    ("two roles of one name", but(TEAM, spec__roles=[TEAM["spec"]["roles"][0]] * 2), "Duplicate value"),
    ("no role", but(TEAM, spec__roles=[]), "should have at least 1 items"),
    ("two steps of one name", but(CHAIN, spec__strategy__chain__steps__1__name="triage"), "Duplicate value"),
    ("seventeen steps", but(CHAIN, spec__strategy__chain__steps=[{"name": f"s{n}", "role": "writer"} for n in range(17)]), "must have at most 16 items"),
    ("eleven iterations", but(CHAIN, spec__strategy__chain__repeat__maxIterations=11), "repeat.maxIterations"),
    ("a part of more than a million tokens", but(TEAM, spec__strategy__mapReduce__split__tokens=1_000_001), "split.tokens"),
    ("a tree of one", but(TEAM, spec__strategy__mapReduce__reduce__fanIn=1), "reduce.fanIn"),
    ("more than all parts", but(TEAM, spec__strategy__mapReduce__minSuccessful="101%"), "minSuccessful"),
    ("a schema that is text", but(TEAM, spec__roles__1__outputSchema="{}"), "spec.roles[1].outputSchema"),
    ("no budget", but(TEAM, spec__budget=None), "spec.budget: Required value"),
    ("a budget of more than six decimals", but(TEAM, spec__budget__perRun__cost="0.0000001"), "spec.budget.perRun.cost"),
    ("six attempts", but(POLICY, spec__fallback={"maxAttempts": 6}), "spec.fallback.maxAttempts"),
)
UNIQUE_BY_SERVER_ONLY = {"two flavors of one name", "two entrypoints of one name", "two roles of one name", "two steps of one name"}


@pytest.mark.parametrize(("obj", "told"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused_at_the_door(door: Door, obj: dict[str, Any], told: str) -> None:
    code, body = door.create(obj)
    assert code == 422, f"accepted: {body}"
    assert told in body["message"]


@pytest.mark.parametrize("obj", [case[1] for case in REFUSED if case[0] not in UNIQUE_BY_SERVER_ONLY])
def test_what_the_schema_refuses_the_model_refuses(obj: dict[str, Any]) -> None:
    assert isinstance(parse(kind_of(obj["kind"]), obj), InvalidObject)


@pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())
def test_unknown_fields_are_pruned_and_warned_of(door: Door, base: dict[str, Any]) -> None:
    code, body = door.create(but(base, spec__colour="red"))
    assert code == 201
    assert "colour" not in body["spec"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.KIND)
def test_everything_a_user_writes_has_a_maximum(kind: type[Kind]) -> None:
    spec = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    unbounded = [path for path, node in walk(spec, "spec") if not bounded(node)]
    assert unbounded == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.KIND)
def test_a_parent_of_defaults_has_a_complete_default_and_a_status_says_that_nobody_looked(kind: type[Kind]) -> None:
    properties = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for path, node in walk(properties["spec"], "spec"):
        if isinstance(node.get("default"), dict):
            inner = {name: child["default"] for name, child in node["properties"].items() if "default" in child}
            assert inner.items() <= node["default"].items(), path
    told = {path: node["default"] for path, node in walk(properties["status"], "status") if "default" in node}
    assert told == {"status": {"observedGeneration": -1}, "status.observedGeneration": -1}


def walk(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if name in node:
            yield from walk(node[name], f"{path}[]")


def bounded(node: dict[str, Any]) -> bool:
    match node["type"]:
        case "string":
            return "maxLength" in node or "enum" in node
        case "array":
            return "maxItems" in node
        case "integer":
            return "minimum" in node and "maximum" in node
        case "object":
            return "properties" in node or "maxProperties" in node
        case other:
            return other == "boolean"
