"""Schemas of typed answers: what may be used, the one spelling, and words for what does not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from jsonschema import Draft202012Validator

from modelfleet.core.teams.schema import MAX_BYTES, MAX_DEPTH, MAX_NODES, canonical, check_schema, misfit

FINDING: dict[str, Any] = {
    "type": "object",
    "description": "What a part says about the question.",
    "required": ["relevant", "finding"],
    "properties": {
        "relevant": {"type": "boolean"},
        "finding": {"type": "string", "maxLength": 20},
        "verdict": {"type": "string", "enum": ["yes", "no"]},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "pages": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 3},
    },
    "additionalProperties": False,
}
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=12)
json_values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12)


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels - 1):
        schema = {"type": "array", "items": schema}
    return schema


def wide(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{n}": {"type": "boolean"} for n in range(count)}}


@st.composite
def schemas(draw: st.DrawFn, depth: int = 3) -> dict[str, Any]:
    """Schemas inside the subset."""
    kind = draw(st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "enum"] if depth else ["string", "boolean", "enum"]))
    described = {"description": draw(st.text(max_size=8).filter(_is_text))} if draw(st.booleans()) else {}
    match kind:
        case "object":
            properties = draw(st.dictionaries(st.text("ab$_", min_size=1, max_size=3), schemas(depth=depth - 1), max_size=3))
            required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
            closed = {"additionalProperties": False} if draw(st.booleans()) else {}
            return {"type": "object", "properties": properties, "required": required, **closed, **described}
        case "array":
            low = draw(st.integers(0, 2))
            return {"type": "array", "items": draw(schemas(depth=depth - 1)), "minItems": low, "maxItems": draw(st.integers(low, 4)), **described}
        case "string":
            return {"type": "string", "maxLength": draw(st.integers(0, 9)), **described}
        case "number" | "integer":
            low = draw(st.integers(-5, 5))
            return {"type": kind, "minimum": low, "maximum": draw(st.integers(low, 9)), **described}
        case "enum":
            return {"enum": draw(st.lists(st.sampled_from(["a", "b", 1, 2.5, True]), min_size=1, unique_by=canonical)), **described}
        case _:
            return {"type": "boolean", **described}


def _is_text(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


@pytest.mark.parametrize("schema", [FINDING, {"enum": ["a", 1, True]}, {"type": "string"}, nested(MAX_DEPTH), wide(MAX_NODES - 1), {"type": "object"}])
def test_inside_the_subset(schema: dict[str, Any]) -> None:
    assert check_schema(schema) == []


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({}, "$.type: must be one of object, array, string, number, integer, boolean"),
        ([], "$: must be a schema (an object)"),
        ({"type": "null"}, "$.type: must be one of"),
        ({"type": ["string", "null"]}, "$.type: must be one of"),
        ({"type": "string", "pattern": "a"}, "$: 'pattern' is not supported here; supported: type, enum, description, maxLength"),
        ({"type": "boolean", "maxLength": 3}, "$: 'maxLength' is not supported here"),
        ({"$ref": "#/$defs/a", "enum": [1]}, "$: '$ref' is not supported here"),
        ({"type": "array"}, "$.items: required"),
        ({"type": "array", "items": False}, "$.items: must be a schema"),
        ({"type": "array", "items": {"type": "text"}}, "$.items.type: must be one of"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 3, "maxItems": 2}, "$: minItems exceeds maxItems"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "$: minimum exceeds maximum"),
        ({"type": "integer", "minimum": True}, "$.minimum: must be a number"),
        ({"type": "number", "maximum": float("nan")}, "$.maximum: must be a number"),
        ({"type": "number", "maximum": 10**400}, "$.maximum: must be a number"),
        ({"type": "string", "maxLength": -1}, "$.maxLength: must be a whole number, 0 or more"),
        ({"type": "string", "maxLength": 1.5}, "$.maxLength: must be a whole number, 0 or more"),
        ({"type": "object", "properties": []}, "$.properties: must be an object of schemas"),
        ({"type": "object", "properties": {"": {"type": "string"}}}, "$.properties: the name '' must have 1 to 64 characters"),
        ({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": 1}}}}, "$.properties.a.properties.b: must be a schema"),
        ({"type": "object", "required": ["a"]}, "$.required: 'a' is not in properties"),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a", "a"]}, "$.required: names one twice"),
        ({"type": "object", "required": "a"}, "$.required: must be a list of names"),
        ({"type": "object", "additionalProperties": True}, "$.additionalProperties: must be false"),
        ({"enum": []}, "$.enum: must be a list of 1 to 64 values"),
        ({"enum": [None]}, "$.enum: values must be strings, numbers or booleans"),
        ({"enum": [1, 1.0]}, "$.enum: names a value twice"),
        ({"type": "string", "enum": ["a", 1]}, "$.enum: its values must be of the type string"),
        ({"type": "string", "description": 1}, "$.description: must be a string"),
        ({"type": "string", "description": "\ud800"}, "$: holds text that is not UTF-8"),
        ({"type": "string", "description": "x" * MAX_BYTES}, "$: 16"),
        (nested(MAX_DEPTH + 1), "nested deeper than 8 levels"),
        (wide(MAX_NODES), "$: holds more than 128 schemas"),
    ],
)
def test_outside_of_the_subset(schema: Any, fault: str) -> None:
    faults = check_schema(schema)
    assert len(faults) == 1
    assert fault in faults[0]


def test_many_faults_are_cut_and_counted() -> None:
    faults = check_schema({"type": "object", "properties": {f"p{n:02}": {} for n in range(30)}})
    assert len(faults) == 16
    assert faults[0].startswith("$.properties.p00.type: ")
    assert faults[-1] == "$: and 15 more faults"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"relevant": True, "finding": "ok", "score": 0.5, "pages": [1, 2.0], "verdict": "no"}, None),
        ({"relevant": 1, "finding": ""}, "$.relevant: must be of the type boolean, not 1"),
        ({"relevant": True}, "$: required, but absent: finding"),
        ({"relevant": True, "finding": "x" * 21}, "$.finding: longer than 20 characters (21)"),
        ({"relevant": True, "finding": "", "more": 1}, '$: unknown field "more"'),
        ({"relevant": True, "finding": "", "verdict": "maybe"}, '$.verdict: must be one of the 2 values of its enum, not "maybe"'),
        ({"relevant": True, "finding": "", "score": 1.5}, "$.score: more than 1: 1.5"),
        ({"relevant": True, "finding": "", "score": float("nan")}, "$.score: must be of the type number, not NaN"),
        ({"relevant": True, "finding": "", "score": 10**400}, f"$.score: more than 1: 1{'0' * 78}…"),
        ({"relevant": True, "finding": "", "pages": []}, "$.pages: fewer than 1 items (0)"),
        ({"relevant": True, "finding": "", "pages": [1, 0]}, "$.pages[1]: less than 1: 0"),
        ({"relevant": True, "finding": "", "pages": [1] * 4}, "$.pages: more than 3 items (4)"),
        ("prose", '$: must be of the type object, not "prose"'),
    ],
)
def test_a_misfit_names_its_path_and_what_is_wrong(value: Any, told: str | None) -> None:
    assert misfit(canonical(FINDING), value) == told


def test_an_answer_is_never_quoted_at_length() -> None:
    secret = "s" * 500
    for value in (
        secret,
        {"relevant": secret, "finding": ""},
        {"relevant": True, "finding": "", secret: 1},
        {"relevant": True, "finding": "", "verdict": secret},
    ):
        told = misfit(canonical(FINDING), value)
        assert told is not None
        assert told.count("s" * 40) > 0
        assert "s" * 80 not in told


@settings(max_examples=60, deadline=None)
@given(json_values)
def test_anything_is_checked_without_an_exception(value: Any) -> None:
    faults = check_schema(value)
    assert all(fault.startswith("$") and ": " in fault for fault in faults)
    assert misfit(canonical(FINDING), value) is not None or isinstance(value, dict)


@settings(max_examples=50, deadline=None)
@given(schemas(), json_values)
def test_the_subset_is_a_subset_and_agrees_with_the_standard(schema: dict[str, Any], value: Any) -> None:
    assert check_schema(schema) == []
    Draft202012Validator.check_schema(schema)
    text = canonical(schema)
    assert check_schema(json.loads(text)) == []
    told = misfit(text, value)
    if not _odd(value):
        assert (told is None) == Draft202012Validator(schema).is_valid(value)


def _odd(value: Any) -> bool:
    """NaN and infinities, which no JSON text has."""
    if isinstance(value, float):
        return value != value or value in (float("inf"), float("-inf"))
    return any(map(_odd, value.values() if isinstance(value, dict) else value)) if isinstance(value, dict | list) else False


def test_one_spelling() -> None:
    assert canonical({"b": 1.0, "a": [True, None, "é"]}) == '{"a":[true,null,"é"],"b":1}'
    assert canonical(False) == "false"
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))
