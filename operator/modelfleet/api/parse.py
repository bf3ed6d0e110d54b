"""Objects as the API server sends them -> models, or a value that says what is wrong with them.

Decided here: whether a stored object can be used, and how its errors are worded (each names its path, as in
``spec.flavors[0].devices: ...``). Nothing here raises for any JSON object: an object that an older schema let in, or that
somebody wrote past it, must stall alone. A status that does not parse is dropped, since it is ours to rebuild;
cross-field rules are the API server's (CEL) and are not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from .v1alpha1.common import Condition, Kind

__all__ = ["InvalidObject", "one_line", "parse"]

KindT = TypeVar("KindT", bound=Kind)

_MAX_ERRORS = 16
_MAX_ERROR_LENGTH = 300


@dataclass(frozen=True, slots=True)
class InvalidObject:
    """An object of one of our kinds that does not parse. ``errors`` are sentences, at most 16, each beginning with its path.

    ``conditions``: those its status shows, so that times of transition survive.
    """

    kind: str
    namespace: str
    name: str
    uid: str
    generation: int
    errors: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()

    @property
    def key(self) -> str:
        """``<namespace>/<name>``, or ``<name>`` for a cluster-scoped object, as on ``Kind``."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def parse(kind: type[KindT], raw: object) -> KindT | InvalidObject:
    """The model of one object as the API server stores it, or what is wrong with it; never raises."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        if isinstance(raw, Mapping) and all(_is_in_status(e["loc"]) for e in _details(error)):
            return parse(kind, {key: value for key, value in raw.items() if key != "status"})
        return _invalid(kind, raw, _sentences(error))
    except (RecursionError, TypeError, ValueError) as error:
        return _invalid(kind, raw, (f"object: cannot be read ({type(error).__name__})",))


def _details(error: ValidationError) -> list[Any]:
    return list(error.errors(include_url=False, include_context=False, include_input=False))


def _is_in_status(loc: Sequence[int | str]) -> bool:
    return bool(loc) and loc[0] == "status"


def _sentences(error: ValidationError) -> tuple[str, ...]:
    told = [one_line(f"{_path(e['loc'])}: {_message(e)}")[:_MAX_ERROR_LENGTH] for e in _details(error)]
    if len(told) > _MAX_ERRORS:
        told = [*told[: _MAX_ERRORS - 1], f"object: and {len(told) - _MAX_ERRORS + 1} more errors"]
    return tuple(told)


def one_line(text: str) -> str:
    """Text in which what a user wrote is quoted, with line breaks and text direction shown as escapes: they must not act on logs and terminals."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _message(detail: Mapping[str, Any]) -> str:
    match detail["type"]:
        case "missing":
            return "required, but absent"
        case "extra_forbidden":
            return "unknown field"
        case "model_type" | "dict_type":
            return "must be an object"
        case _:
            message = str(detail["msg"])
            return message[:1].lower() + message[1:]


def _path(loc: Sequence[int | str]) -> str:
    path = ""
    for part in loc:
        if part == "[key]":
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".") or "object"


def _invalid(kind: type[Kind], raw: object, errors: tuple[str, ...]) -> InvalidObject:
    metadata = raw.get("metadata") if isinstance(raw, Mapping) else None
    known = metadata if isinstance(metadata, Mapping) else {}
    generation = known.get("generation")
    return InvalidObject(
        kind=kind.KIND,
        namespace=_text(known.get("namespace")),
        name=_text(known.get("name")),
        uid=_text(known.get("uid")),
        generation=generation if isinstance(generation, int) and not isinstance(generation, bool) else 0,
        errors=errors,
        conditions=_conditions(raw),
    )


def _conditions(raw: object) -> tuple[Condition, ...]:
    status = raw.get("status") if isinstance(raw, Mapping) else None
    listed = status.get("conditions") if isinstance(status, Mapping) else None
    try:
        return tuple(Condition.model_validate(c) for c in listed) if isinstance(listed, Sequence) else ()
    except ValidationError:
        return ()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
