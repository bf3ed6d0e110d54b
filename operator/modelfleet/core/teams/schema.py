"""Schemas of typed answers: which ones a team may use, their one spelling, and whether an answer fits.

Decided here: the subset of JSON Schema (2020-12) that every model server can be held to, its bounds, and the words for a misfit. An answer is quoted in
part at most, since it may hold what a user said. Not decided here: what becomes of an answer that does not fit (the executor), or which roles have a schema.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "canonical", "check_schema", "misfit"]

MAX_DEPTH: Final = 8
"""Levels of nesting, the root included."""

MAX_NODES: Final = 128
"""Schemas in a schema, the root included."""

MAX_BYTES: Final = 16_384
"""Of the canonical text as UTF-8; a role's schema is sent with every call."""

MAX_ENUM: Final = 64
MAX_NAME: Final = 64
MAX_FAULTS: Final = 16
MAX_QUOTE: Final = 80

_LARGEST = 2**53
"""Whole numbers beyond it are not the same everywhere that JSON is read."""

_KEYWORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "minItems", "maxItems"),
    "string": ("maxLength",),
    "number": ("minimum", "maximum"),
    "integer": ("minimum", "maximum"),
    "boolean": (),
}
_EVERYWHERE = ("type", "enum", "description")


def canonical(value: Any) -> str:
    """The one spelling of a JSON value: sorted keys, no spaces, ``1.0`` as ``1``. Raises ValueError on NaN and infinities."""
    return json.dumps(_whole(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def check_schema(schema: Any) -> list[str]:
    """What keeps a schema from being used, at most 16 sentences, each beginning with its path from ``$``; empty: it may be used."""
    faults: list[str] = []
    nodes = _check(schema, "$", 1, faults)
    if nodes > MAX_NODES:
        faults.append(f"$: holds more than {MAX_NODES} schemas")
    if not faults:
        faults += _check_text(schema)
    return faults if len(faults) <= MAX_FAULTS else [*faults[: MAX_FAULTS - 1], f"$: and {len(faults) - MAX_FAULTS + 1} more faults"]


def misfit(schema_text: str, value: Any) -> str | None:
    """Why a value does not fit the schema (canonical text that ``check_schema`` accepts), as one sentence beginning with its path; None: it fits."""
    found = next(_validator(schema_text).iter_errors(value), None)
    return None if found is None else _sentence(found)


# --- the subset ---


def _check(node: Any, path: str, depth: int, faults: list[str]) -> int:
    """Adds the faults of one schema and those in it; how many schemas it holds."""
    if not isinstance(node, Mapping):
        faults.append(f"{path}: must be a schema (an object)")
        return 1
    if depth > MAX_DEPTH:
        faults.append(f"{path}: nested deeper than {MAX_DEPTH} levels")
        return 1
    type_ = node.get("type")
    if not (isinstance(type_, str) and type_ in _KEYWORDS) and not (type_ is None and "enum" in node):
        faults.append(f"{path}.type: must be one of {', '.join(_KEYWORDS)}")
        return 1
    allowed = (*_EVERYWHERE, *_KEYWORDS.get(type_ or "", ()))
    nodes = 1
    for keyword in sorted(node, key=str):
        if keyword not in allowed:
            faults.append(f"{path}: {str(keyword)[:MAX_NAME]!r} is not supported here; supported: {', '.join(allowed)}")
            continue
        nodes += _check_keyword(str(keyword), node, path, depth, faults)
    if type_ == "array" and "items" not in node:
        faults.append(f"{path}.items: required, so that its elements are known")
    faults += [f"{path}: {low} exceeds {high}" for low, high in (("minItems", "maxItems"), ("minimum", "maximum")) if _exceeds(node, low, high)]
    return nodes


def _check_keyword(keyword: str, node: Mapping[str, Any], path: str, depth: int, faults: list[str]) -> int:
    """Adds the faults of one keyword's value; how many schemas are in it."""
    value, here = node[keyword], f"{path}.{keyword}"
    match keyword:
        case "items":
            return _check(value, here, depth + 1, faults)
        case "properties":
            return _check_properties(value, here, depth, faults)
        case "required":
            faults += _check_required(value, node.get("properties"), here)
        case "additionalProperties":
            faults += [] if value is False else [f"{here}: must be false (or absent)"]
        case "enum":
            faults += _check_enum(value, node.get("type"), here)
        case "description":
            faults += [] if isinstance(value, str) else [f"{here}: must be a string"]
        case "minimum" | "maximum":
            faults += [] if _is_number(value) else [f"{here}: must be a number between -2^53 and 2^53"]
        case "minItems" | "maxItems" | "maxLength":
            faults += [] if _is_integer(value) and 0 <= value <= _LARGEST else [f"{here}: must be a whole number, 0 or more"]
    return 0


def _check_properties(value: Any, path: str, depth: int, faults: list[str]) -> int:
    if not isinstance(value, Mapping):
        faults.append(f"{path}: must be an object of schemas")
        return 0
    nodes = 0
    for name in sorted(value, key=str):
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            faults.append(f"{path}: the name {str(name)[:MAX_NAME]!r} must have 1 to {MAX_NAME} characters")
            continue
        nodes += _check(value[name], f"{path}.{name}", depth + 1, faults)
        if nodes > MAX_NODES:
            break
    return nodes


def _check_required(value: Any, properties: Any, path: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return [f"{path}: must be a list of names"]
    known = properties if isinstance(properties, Mapping) else {}
    faults = [f"{path}: {name[:MAX_NAME]!r} is not in properties" for name in dict.fromkeys(value) if name not in known]
    return faults if len(set(value)) == len(value) else [*faults, f"{path}: names one twice"]


def _check_enum(value: Any, type_: str | None, path: str) -> list[str]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_ENUM:
        return [f"{path}: must be a list of 1 to {MAX_ENUM} values"]
    if not all(isinstance(v, str | bool) or _is_number(v) for v in value):
        return [f"{path}: values must be strings, numbers or booleans"]
    if len({canonical(v) for v in value}) < len(value):
        return [f"{path}: names a value twice"]
    if type_ is not None and (fault := misfit(canonical({"items": {"type": type_}}), value)) is not None:
        return [f"{path}: its values must be of the type {type_} ({fault})"]
    return []


def _check_text(schema: Any) -> list[str]:
    try:
        size = len(canonical(schema).encode())
    except ValueError:
        return ["$: holds text that is not UTF-8"]
    return [] if size <= MAX_BYTES else [f"$: {size} bytes as canonical JSON, the most is {MAX_BYTES}"]


def _exceeds(node: Mapping[str, Any], low: str, high: str) -> bool:
    return _is_number(node.get(low)) and _is_number(node.get(high)) and node[low] > node[high]


def _is_integer(value: Any) -> bool:
    return _is_number(value) and float(value).is_integer()


def _is_number(value: Any) -> bool:
    """A number that JSON carries everywhere; a boolean is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _whole(value: Any) -> Any:
    """``1.0`` and ``1`` are one JSON number."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case Mapping():
            return {key: _whole(item) for key, item in value.items()}
        case list() | tuple():
            return [_whole(item) for item in value]
        case _:
            return value


# --- an answer ---


def _finite(_checker: object, instance: object) -> bool:
    return (isinstance(instance, int) and not isinstance(instance, bool)) or (isinstance(instance, float) and math.isfinite(instance))


def _finite_integer(checker: object, instance: object) -> bool:
    return _finite(checker, instance) and (not isinstance(instance, float) or instance.is_integer())


_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many({"number": _finite, "integer": _finite_integer}),
)


@lru_cache(maxsize=256)
def _validator(schema_text: str) -> Any:
    return _Validator(json.loads(schema_text))


_SENTENCES: Final[Mapping[str, Callable[[Any], str]]] = {
    "type": lambda e: f"must be of the type {e.validator_value}, not {_quoted(e.instance)}",
    "enum": lambda e: f"must be one of the {len(e.validator_value)} values of its enum, not {_quoted(e.instance)}",
    "required": lambda e: "required, but absent: " + ", ".join(name for name in e.validator_value if name not in e.instance),
    "additionalProperties": lambda e: "unknown field " + next((_quoted(name) for name in e.instance if name not in e.schema.get("properties", {})), ""),
    "maxLength": lambda e: f"longer than {e.validator_value} characters ({len(e.instance)})",
    "maxItems": lambda e: f"more than {e.validator_value} items ({len(e.instance)})",
    "minItems": lambda e: f"fewer than {e.validator_value} items ({len(e.instance)})",
    "minimum": lambda e: f"less than {e.validator_value}: {_quoted(e.instance)}",
    "maximum": lambda e: f"more than {e.validator_value}: {_quoted(e.instance)}",
}


def _sentence(error: ValidationError) -> str:
    path = "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    known = _SENTENCES.get(str(error.validator))
    return f"{path}: {known(error) if known else f'does not satisfy {error.validator}'}"


def _quoted(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= MAX_QUOTE else text[: MAX_QUOTE - 1] + "…"
