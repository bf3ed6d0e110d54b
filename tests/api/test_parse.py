"""Parsing at the door: any JSON object becomes a model or a value with errors that name their paths; nothing raises."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import example, given, strategies as st
from tests.api.door import BASES, CHAIN, POLICY, POOL, TEAM, but

from modelfleet.api.parse import InvalidObject, parse
from modelfleet.api.v1alpha1 import KINDS, AgentTeam, Kind, ModelPool, RoutingPolicy

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())) | st.just(10**400)
json = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12)


def paths(node: Any) -> list[tuple[str | int, ...]]:
    steps: list[tuple[str | int, Any]] = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    return [(), *((step, *rest) for step, child in steps for rest in paths(child))]


@st.composite
def damaged(draw: st.DrawFn, *kinds: type[Kind]) -> tuple[type[Kind], Any]:
    """An object of one of the kinds (none given: any) that was good until something was put in the place of one of its parts."""
    kind = draw(st.sampled_from(kinds or KINDS))
    base = draw(st.sampled_from([TEAM, CHAIN])) if kind is AgentTeam else BASES[kind.KIND]
    obj = copy.deepcopy(but(base, status__conditions=[{"type": "Ready"}]))
    path = draw(st.sampled_from(paths(obj)))
    if not path:
        return kind, draw(json)
    node: Any = obj
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = draw(json)
    return kind, obj


def check(kind: type[Kind], raw: object) -> None:
    read = parse(kind, raw)
    if isinstance(read, InvalidObject):
        assert read.kind == kind.KIND
        assert 1 <= len(read.errors) <= 16
        assert all(0 < len(error) <= 300 and ": " in error for error in read.errors)
    else:
        assert isinstance(read, kind)


@given(st.sampled_from(KINDS), json)
@example(ModelPool, {"metadata": {"name": "\ud800"}, "spec": "\ud800"})
@example(ModelPool, {"metadata": [], "spec": {}})
@example(ModelPool, {"metadata": {"name": "a", "generation": True}})
def test_any_json_is_read_or_refused(kind: type[Kind], raw: object) -> None:
    check(kind, raw)


@given(damaged())
def test_any_damage_is_read_or_refused(case: tuple[type[Kind], object]) -> None:
    check(*case)


def test_depth_does_not_end_the_process() -> None:
    deep: Any = {}
    for _ in range(50_000):
        deep = {"spec": deep}
    check(ModelPool, {"metadata": {"name": "a"}, "spec": deep})


@pytest.mark.parametrize(
    ("kind", "raw", "error"),
    [
        (
            ModelPool,
            but(POOL, spec__flavors__1__endpoint__price__inputPerMillion="free"),
            "spec.flavors[1].endpoint.price.inputPerMillion: string should match pattern",
        ),
        (ModelPool, but(POOL, spec__flavors__0__devices="1"), "spec.flavors[0].devices: input should be a valid integer"),
        (ModelPool, but(POOL, spec__model=None), "spec.model: required, but absent"),
        (ModelPool, but(POOL, spec__colour="red"), "spec.colour: unknown field"),
        (ModelPool, but(POOL, spec__engine__resources={"requests": {"nvidia.com/gpu": "1"}}), "spec.engine.resources.requests.nvidia.com/gpu: "),
        (RoutingPolicy, but(POLICY, spec__rules__0__match__tools="Some"), "spec.rules[0].match.tools: input should be 'Any', 'Present' or 'Absent'"),
        (RoutingPolicy, [], "object: "),
        (AgentTeam, but(TEAM, spec__roles__1__outputSchema=[]), "spec.roles[1].outputSchema: must be an object"),
        (AgentTeam, but(TEAM, spec__strategy="teamwork"), "spec.strategy: must be an object"),
        (
            AgentTeam,
            but(TEAM, spec__strategy__mapReduce__split__by="Page"),
            "spec.strategy.mapReduce.split.by: input should be 'Chunk', 'JsonArray' or 'Lines'",
        ),
        (AgentTeam, but(CHAIN, spec__strategy__chain__repeat__from=None), "spec.strategy.chain.repeat.from: required, but absent"),
    ],
)
def test_errors_name_their_path(kind: type[Kind], raw: object, error: str) -> None:
    read = parse(kind, raw)
    assert isinstance(read, InvalidObject)
    assert len(read.errors) == 1
    assert read.errors[0].startswith(error)


def test_an_invalid_object_keeps_what_is_needed_to_report_it() -> None:
    raw = but(POOL, spec__flavors=[], metadata={"name": "boss", "namespace": "apps", "uid": "u-1", "generation": 7})
    read = parse(ModelPool, raw)
    assert isinstance(read, InvalidObject)
    assert (read.namespace, read.name, read.uid, read.generation, read.key) == ("apps", "boss", "u-1", 7, "apps/boss")


def test_many_errors_are_cut_and_counted() -> None:
    read = parse(ModelPool, but(POOL, spec={f"field{n}": n for n in range(30)}))
    assert isinstance(read, InvalidObject)
    assert len(read.errors) == 16
    assert read.errors[-1] == "object: and 17 more errors"


def test_a_status_that_does_not_parse_is_dropped_and_does_not_stall_the_object() -> None:
    read = parse(ModelPool, {**POOL, "status": {"flavors": "nonsense", "replicas": 2}})
    assert isinstance(read, ModelPool)
    assert read.status.replicas == 0


def test_what_a_key_smuggles_into_a_path_is_shown_and_does_not_act() -> None:
    resources = {"requests": {"cpu\n2026-01-01 forged line": "1", "\u202edlrow": "1"}}
    found = parse(ModelPool, but(BASES["ModelPool"], spec__engine__resources=resources))
    assert isinstance(found, InvalidObject)
    assert all(error.isprintable() for error in found.errors)
    assert any("requests.cpu\\n2026-01-01 forged line: " in error for error in found.errors)
