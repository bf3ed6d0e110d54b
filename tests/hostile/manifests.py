"""Hostile manifests: good objects with one to three mutations each, made from the CRDs' own schema. One seed is one object, on every machine.

A mutation picks a node of the OpenAPI schema, walks to it (building what is absent), and writes something that it should not hold: another type, too much,
too deep, too many, strange text, a number out of range, a reference to nothing or to itself, a duplicate key, a field that nobody knows.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from tests.api.door import BASES, CHAIN
from tests.support.apiserver import CRDS

from modelfleet.api.v1alpha1 import KINDS

Object = dict[str, Any]
Path = tuple[str | int, ...]

HOSTILE_TEXTS = (
    "", " ", "\t", "-", "a b", "UPPER", "a" * 64, "a" * 300, "x" * 20_000, "../../etc/passwd", "name\nnewline", "tab\tinside", "nul\u0000byte", "\u202edlrow",
    "zero\u200bwidth", "💥", "ünïcode", "'; DROP TABLE pools; --", "${input}", "${steps.nope.output}", "${", "{{ .Values.x }}", "%s%n",
    "<script>alert(1)</script>",
    "auto", "healthy", "nope", "hostile", "_none", "_sink", "shop/healthy", "\r\nx-modelfleet-caller: root", "\ud7ff", "a.b", "a..b", "a#b", "a/b/c", "-rf",
)  # fmt: skip
HOSTILE_URLS = (
    "", "ftp://x", "javascript:alert(1)", "file:///etc/passwd", "http://", "https://", "http://[::1", "https://user:pass@host/v1", "http://host:99999/v1",
    "http://ho st/", "http://169.254.169.254/latest", "https://host/v1\r\nx: y", "//host", "http://host/../../x", "https://" + "a" * 300 + ".com",
    "http://1/v1", "http://\u0430pple.com", "https://host:0/v1", "https://host/v1?x=y", "https://host/v1#frag", "http://0x7f000001/",
    "https://*.example.com/v1", "https://-host/v1",
)  # fmt: skip
HOSTILE_DURATIONS = ("", "0s", "-5s", "5", "s", "1e9h", "999999h", "1.5h", "1s ", "1s\n", "\u0661s", "1d", "1h1h1h1h", "0ms", "999999ms", "inf", "1m-1s")
HOSTILE_AMOUNTS = (
    "", "-1", "+1", "1e9", "0x10", "NaN", "Infinity", "1,5", "1.", ".5", "0.0000001", "999999999", "9999999999", "999999999.999999", "\u0663", "1 ", "1\n",
    "00", "0",
    "$5",
)  # fmt: skip
HOSTILE_NUMBERS = (-1, 0, 2**31, 2**31 - 1, 2**63 - 1, -(2**63), 10**30, 1.5, -0.0, 1e308)
OF_ANOTHER_TYPE = (None, True, 7, -1, 1.5, "text", "", [], ["x"], {}, {"x": 1}, [[]], [{}], [None])
NEIGHBOURS = (
    "triage",
    "outline",
    "draft",
    "review",
    "final",
    "clerk",
    "writer",
    "critic",
    "reader",
    "boss",
    "small",
    "short",
    "h100",
    "burst",
    "accept",
    "kind",
)
"""Names that are there: what refers to them may lead to itself, backwards, or to the wrong kind of thing."""
REFERRING = frozenset({"step", "role", "from", "to", "name", "rule", "candidate", "chain", "candidates", "escalateTo", "field", "acceleratorClass", "required"})
UNKNOWN_FIELDS = ("nope", "__proto__", "metadata", "x" * 500, "ключ", "", " ", "a.b", "spec")


def _deep(levels: int) -> Any:
    found: Any = "bottom"
    for level in range(levels):
        found = {"a": found} if level % 2 else [found]
    return found


def schema_of(kind: str) -> Mapping[str, Any]:
    """The OpenAPI schema of a kind's spec, as the API server has it."""
    plural = {k.KIND: k.PLURAL for k in KINDS}[kind]
    found = yaml.safe_load((CRDS / f"modelfleet.dev_{plural}.yaml").read_text())
    schema: Mapping[str, Any] = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


SCHEMAS = {kind: schema_of(kind) for kind in BASES}


def nodes(schema: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every node of a schema with a path into an object; lists are entered at their first item."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, (*path, name))
    if isinstance(schema.get("items"), Mapping):
        yield from nodes(schema["items"], (*path, 0))


NODES = {kind: list(nodes(schema)) for kind, schema in SCHEMAS.items()}


def hostile(kind: str, seed: int) -> Object:
    """The object of a seed, named `hostile-<seed>` so that its neighbours stay themselves."""
    chance = random.Random(f"{kind}/{seed}")
    base = CHAIN if kind == "AgentTeam" and seed % 2 else BASES[kind]
    made = copy.deepcopy(base)
    made["metadata"] = {"name": f"hostile-{seed}"} | ({"namespace": "default"} if "namespace" in base["metadata"] else {})
    if kind == "RoutingPolicy":
        made["spec"]["entrypoints"] = [{"name": f"hostile-{seed}"}]
    if kind == "AcceleratorClass":
        made["spec"]["nodes"] = [{"resource": "hostile.example/card", "matchLabels": {"hostile.example/card": "yes"}}]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        _mutate(made, kind, chance)
    return made


def _mutate(made: Object, kind: str, chance: random.Random) -> None:
    if chance.random() < 0.06:
        made["metadata"] |= _hostile_metadata(chance)
        return
    path, schema = chance.choice(NODES[kind])
    parent = _walk(made, path, chance)
    if parent is None:
        return
    name: Any = path[-1] if path else "spec"
    how = chance.choice((_another_type, _fitting, _fitting, _fitting, _remove, _unknown, _repeat, _nest))
    how(parent, name, schema, chance)


def _walk(made: Object, path: Path, chance: random.Random) -> Any:
    """The container of the last step of a path, made on the way where it is absent; None where an earlier mutation left no way."""
    node: Any = made
    for here, after in zip(("spec", *path), (*path, None), strict=False):
        if after is None:
            return node
        fresh: Any = [] if after == 0 else {}
        if isinstance(node, list):
            if not node:
                node.append(fresh)
            at = chance.randrange(len(node))
            node = node[at]
        elif isinstance(node, dict):
            node = node.setdefault(str(here), fresh)
        else:
            return None
    return node


def _set(parent: Any, name: Any, value: Any, chance: random.Random) -> None:
    if isinstance(parent, list):
        if parent:
            parent[chance.randrange(len(parent))] = value
        else:
            parent.append(value)
    elif isinstance(parent, dict):
        parent[str(name)] = value


def _another_type(parent: Any, name: Any, schema: Mapping[str, Any], chance: random.Random) -> None:
    _set(parent, name, copy.deepcopy(chance.choice(OF_ANOTHER_TYPE)), chance)


def _fitting(parent: Any, name: Any, schema: Mapping[str, Any], chance: random.Random) -> None:
    """Of the right type and still wrong, or at least strange."""
    _set(parent, name, _strange(str(name), schema, chance), chance)


def _strange(name: str, schema: Mapping[str, Any], chance: random.Random) -> Any:
    kind = schema.get("type")
    if kind == "string":
        return chance.choice(_texts_for(name, schema))
    if kind in ("integer", "number"):
        edges = [schema[k] + d for k, d in (("minimum", -1), ("minimum", 0), ("maximum", 0), ("maximum", 1)) if k in schema]
        return chance.choice([*HOSTILE_NUMBERS, *edges, *edges])
    if kind == "boolean":
        return chance.choice((True, False, "true", 1))
    if kind == "array":
        item = schema.get("items", {})
        most = schema.get("maxItems", 20)
        many = chance.choice((0, 1, 2, most, most + 1, 300))
        sample = [_strange(name, item, chance) for _ in range(min(many, 12))]
        return [copy.deepcopy(sample[i % len(sample)]) for i in range(many)] if sample else []
    if schema.get("properties"):
        chosen = chance.sample(sorted(schema["properties"]), k=min(3, len(schema["properties"])))
        return {key: _strange(key, schema["properties"][key], chance) for key in chosen}
    labels = {chance.choice(HOSTILE_TEXTS): chance.choice(HOSTILE_TEXTS) for _ in range(chance.choice((1, 3, 40)))}
    return chance.choice((_json_schema(chance), labels, _deep(30)))


def _json_schema(chance: random.Random) -> Object:
    """What a person may take for a JSON schema."""
    return chance.choice(
        (
            {"type": "objekt"},
            {"$ref": "#"},
            {"$ref": "https://example.com/schema.json"},
            {"type": "object", "properties": {"a": {"$ref": "#/properties/b"}, "b": {"$ref": "#/properties/a"}}},
            {"type": "string", "pattern": "(a+)+$"},
            {"type": "string", "pattern": "("},
            {"type": "object", "required": ["b"], "properties": {"a": {"type": "string"}}},
            {"type": ["object", "null"]},
            {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}},
            {"enum": []},
            {"type": "integer", "minimum": 5, "maximum": 1},
            {"type": "object", "properties": {str(i): {"type": "string"} for i in range(300)}},
        )
    )


def _texts_for(name: str, schema: Mapping[str, Any]) -> tuple[Any, ...]:
    if name in REFERRING:
        return (*NEIGHBOURS, *HOSTILE_TEXTS)
    lower, pattern = name.lower(), schema.get("pattern", "")
    allowed = tuple(schema.get("enum", ()))
    if "url" in lower:
        return HOSTILE_URLS
    if "(h|m|s|ms)" in pattern:
        return HOSTILE_DURATIONS
    if "million" in lower or "cost" in lower or "perdevicehour" in lower or pattern.startswith(("^[0-9]", "^(100")):
        return HOSTILE_AMOUNTS
    return (*HOSTILE_TEXTS, *allowed)


def _remove(parent: Any, name: Any, schema: Mapping[str, Any], chance: random.Random) -> None:
    if isinstance(parent, dict):
        parent.pop(str(name), None)
    elif isinstance(parent, list) and parent:
        parent.pop()


def _unknown(parent: Any, name: Any, schema: Mapping[str, Any], chance: random.Random) -> None:
    target = parent if isinstance(parent, dict) else next((p for p in parent if isinstance(p, dict)), None) if isinstance(parent, list) else None
    if target is not None:
        field = chance.choice(UNKNOWN_FIELDS)
        target["nope" if field in target else field] = copy.deepcopy(chance.choice(OF_ANOTHER_TYPE))


def _repeat(parent: Any, name: Any, schema: Mapping[str, Any], chance: random.Random) -> None:
    """The same item again: a duplicate key of a map list, a chain that names itself."""
    held = parent if isinstance(parent, list) else parent.get(str(name)) if isinstance(parent, dict) else None
    if isinstance(held, list) and held:
        held.extend(copy.deepcopy(held) * chance.choice((1, 1, 50)))
    elif isinstance(parent, dict) and isinstance(held, str):
        parent[str(name)] = held * 200


def _nest(parent: Any, name: Any, schema: Mapping[str, Any], chance: random.Random) -> None:
    _set(parent, name, _deep(chance.choice((5, 60, 400))), chance)


def _hostile_metadata(chance: random.Random) -> Object:
    return chance.choice(
        (
            {"name": chance.choice(HOSTILE_TEXTS)},
            {"name": "a" * 250},
            {"name": "dots.are.allowed.in.kubernetes"},
            {"labels": {"x": chance.choice(HOSTILE_TEXTS)}},
            {"labels": {"app.kubernetes.io/managed-by": "modelfleet", "modelfleet.dev/pool": "healthy", "modelfleet.dev/flavor": "card"}},
            {"annotations": {"modelfleet.dev/paused": chance.choice(("true", "TRUE", "1", "💥"))}},
            {"annotations": {"big": "x" * 100_000}},
            {"annotations": {"modelfleet.dev/paused": 1}},
            {"finalizers": ["example.com/never"]},
            {"finalizers": [chance.choice(HOSTILE_TEXTS)]},
            {"ownerReferences": [{"apiVersion": "modelfleet.dev/v1alpha1", "kind": "ModelPool", "name": "healthy", "uid": "u", "controller": True}]},
            {"generation": -5, "uid": "forged", "creationTimestamp": "1970-01-01T00:00:00Z", "deletionTimestamp": "1970-01-01T00:00:00Z"},
            {"generateName": "hostile-", "name": None},
        )
    )
