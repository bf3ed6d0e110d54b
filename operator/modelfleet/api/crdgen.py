"""Models -> CustomResourceDefinitions: structural schema, defaults, CEL, columns, subresources.

Decided here: how a pydantic model reads as OpenAPI v3 for the API server. References are inlined and titles dropped, "X or null"
becomes optional, a constant becomes an enum of one, ``Cel`` and ``MapKey`` marks become extensions, an object of anything keeps
what it holds, and a default is always complete (without one on the parent the inner defaults never appear; an empty one beside CEL is
refused). A status has one default: ``observedGeneration: -1``, so that whoever waits for an object (kstatus, Argo CD) sees at once that
nobody has looked at it yet.
Not decided here: which fields exist (the models), and where files are written (``cli.py``).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from modelfleet.errors import Bug

from .v1alpha1 import GROUP, KINDS, VERSION, Kind
from .v1alpha1.common import Cel, MapKey

__all__ = ["CHART_FOLDER", "CRD_FOLDER", "crd", "render_files"]

CRD_FOLDER = "crds"
CHART_FOLDER = "charts/modelfleet-crds/templates"

_HEADER = "# Generated from operator/modelfleet/api/v1alpha1 by `modelfleet crds`; edit the models instead.\n"
_KEEP = "  {{- if .Values.keep }}\n  annotations:\n    helm.sh/resource-policy: keep\n  {{- end }}\n"
_ANNOTATIONS_ANCHOR = "metadata:\n"

_COPIED = ("type", "format", "minimum", "maximum", "minLength", "maxLength", "pattern", "minItems", "maxItems", "minProperties", "maxProperties", "enum")
"""Keywords of JSON schema that a structural schema takes over as they are."""

_NOT_SEEN = -1
"""The generation of a status that nobody has written."""

_UNSUPPORTED = ("oneOf", "allOf", "not", "patternProperties", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "prefixItems", "uniqueItems")
"""Keywords that a structural schema has no honest counterpart for: a model that needs one must say it otherwise."""


def render_files() -> dict[str, str]:
    """Every generated file by its path below the repository's root: one YAML per kind, and its copy in the chart."""
    files: dict[str, str] = {}
    for kind in KINDS:
        name = f"{GROUP}_{kind.PLURAL}.yaml"
        body = yaml.dump(crd(kind), Dumper=_Plain, sort_keys=False, width=150, allow_unicode=True)
        files[f"{CRD_FOLDER}/{name}"] = _HEADER + body
        files[f"{CHART_FOLDER}/{name}"] = _HEADER + _as_template(body)
    return dict(sorted(files.items()))


def crd(kind: type[Kind]) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind; raises Bug when its model needs what a structural schema cannot say."""
    subresources: dict[str, Any] = {"status": {}}
    if kind.SCALE is not None:
        subresources["scale"] = dict(kind.SCALE)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.PLURAL}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "modelfleet"}},
        "spec": {
            "group": GROUP,
            "scope": kind.SCOPE,
            "names": {
                "kind": kind.KIND,
                "listKind": f"{kind.KIND}List",
                "plural": kind.PLURAL,
                "singular": kind.KIND.lower(),
                "shortNames": [kind.SHORT],
                "categories": ["modelfleet"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _root(kind)},
                    "subresources": subresources,
                    "additionalPrinterColumns": [_column(c.name, c.path, c.type, c.priority) for c in kind.COLUMNS],
                },
            ],
        },
    }


class _Plain(yaml.SafeDumper):
    """YAML without anchors: a schema that is used twice is written twice, so that a diff reads without them."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML asks for each value
        return True


class _Marked(GenerateJsonSchema):
    """Pydantic's generator, which also carries our marks: CEL of a model, keys of a list, and the model's own defaults."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        cls: type[BaseModel] = schema["cls"]
        found["x-kubernetes-validations"] = _rules(getattr(cls, "cel", ()))
        for name, field in cls.model_fields.items():
            prop = found.get("properties", {}).get(field.alias or name)
            if prop is None:
                continue
            for mark in field.metadata:
                if isinstance(mark, MapKey):
                    prop["x-kubernetes-list-type"] = "map"
                    prop["x-kubernetes-list-map-keys"] = list(mark.keys)
            prop.pop("default", None)
            if not field.is_required() and field.get_default(call_default_factory=True, validated_data={}) is not None:
                prop["default"] = _complete(field.get_default(call_default_factory=True, validated_data={}))
        return found


def _root(kind: type[Kind]) -> dict[str, Any]:
    raw = kind.model_json_schema(by_alias=True, schema_generator=_Marked)
    defs: Mapping[str, Any] = raw.get("$defs", {})
    root: dict[str, Any] = {
        "type": "object",
        "description": _description(raw),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _structural(raw["properties"]["spec"], defs, f"{kind.KIND}.spec", defaults=True),
            "status": _unseen(_structural(raw["properties"]["status"], defs, f"{kind.KIND}.status", defaults=False)),
        },
    }
    if kind.cel:
        root["x-kubernetes-validations"] = _rules(kind.cel)
    return root


def _unseen(status: dict[str, Any]) -> dict[str, Any]:
    """The schema of a status that says "not looked at" until it is written."""
    status["properties"]["observedGeneration"]["default"] = _NOT_SEEN
    status["default"] = {"observedGeneration": _NOT_SEEN}
    return status


def _structural(node: Mapping[str, Any], defs: Mapping[str, Any], path: str, *, defaults: bool) -> dict[str, Any]:
    """One node of pydantic's schema as a structural schema; ``path`` is for the message of a Bug."""
    merged = _not_null(_inlined(node, defs), defs, path)
    for keyword in _UNSUPPORTED:
        if keyword in merged:
            raise Bug("SchemaNotStructural", f"{path}: a CRD cannot say {keyword!r}; write the model otherwise or use CEL")
    if merged.get("type") not in ("object", "array", "string", "integer", "boolean"):
        raise Bug("SchemaNotStructural", f"{path}: type {merged.get('type')!r} does not belong into an API (floats are decimal strings)")
    if "const" in merged:
        merged["enum"] = [merged["const"]]
    out: dict[str, Any] = {}
    if text := _description(merged):
        out["description"] = text
    out |= {keyword: merged[keyword] for keyword in _COPIED if keyword in merged}
    if defaults and "default" in merged:
        out["default"] = merged["default"]
    if "items" in merged:
        out["items"] = _structural(merged["items"], defs, f"{path}[]", defaults=defaults)
    if "properties" in merged:
        if required := merged.get("required"):
            out["required"] = list(required)
        out["properties"] = {key: _structural(value, defs, f"{path}.{key}", defaults=defaults) for key, value in merged["properties"].items()}
    elif isinstance(merged.get("additionalProperties"), Mapping):
        out["additionalProperties"] = _structural(merged["additionalProperties"], defs, f"{path}{{}}", defaults=defaults)
    elif merged.get("additionalProperties") is True:
        out["x-kubernetes-preserve-unknown-fields"] = True
    out |= {key: value for key, value in merged.items() if key.startswith("x-kubernetes-") and value}
    _check_map_keys(out, path)
    return out


def _inlined(node: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    """The node with its reference replaced by what it refers to; the node's own words win."""
    merged = dict(node)
    while (ref := merged.pop("$ref", None)) is not None:
        merged = {**defs[ref.removeprefix("#/$defs/")], **merged}
    return merged


def _not_null(node: dict[str, Any], defs: Mapping[str, Any], path: str) -> dict[str, Any]:
    """``X or null`` is X; whether the field may be absent is said by ``required`` of its parent."""
    options = node.pop("anyOf", None)
    if options is None:
        return node
    others = [option for option in options if option.get("type") != "null"]
    if len(others) != 1:
        raise Bug("SchemaNotStructural", f"{path}: a union of types does not belong into an API; make it fields and a CEL rule")
    return {**_inlined(others[0], defs), **node}


def _check_map_keys(node: Mapping[str, Any], path: str) -> None:
    """The API server refuses a list map whose keys may be absent."""
    for key in node.get("x-kubernetes-list-map-keys", ()):
        if key not in node["items"].get("required", ()):
            raise Bug("MapKeyNotRequired", f"{path}: the key {key!r} of a list map must be required")


def _complete(default: object) -> object:
    """A default as JSON, with every inner default in it and without absent fields."""
    match default:
        case BaseModel():
            return default.model_dump(by_alias=True, exclude_none=True, mode="json")
        case list() | tuple():
            return [_complete(item) for item in default]
        case _:
            return default


def _rules(marks: Iterable[Cel]) -> list[dict[str, str]]:
    return [{"rule": mark.rule, "message": mark.message} for mark in marks]


def _column(name: str, path: str, kind: str, priority: int) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    return column | {"priority": priority} if priority else column


def _description(node: Mapping[str, Any]) -> str:
    return " ".join(inspect.cleandoc(str(node.get("description", ""))).replace("``", "`").split())


def _as_template(body: str) -> str:
    """The CRD as a Helm template that survives an uninstall unless the chart's ``keep`` is false."""
    if "{{" in body:
        raise Bug("TemplateInSchema", "a generated CRD holds '{{', which Helm would read as a template")
    return body.replace(_ANNOTATIONS_ANCHOR, _ANNOTATIONS_ANCHOR + _KEEP, 1)
