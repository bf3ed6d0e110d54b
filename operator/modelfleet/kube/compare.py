"""Is a child as we want it? Desired manifests against what the API server made of them. Pure.

``covers``: everything desired is there, whatever defaulting added. ``drops``: something that we applied earlier is no longer desired, told by the fields
that the API server says we own. Together they decide, without any annotation, whether an apply would change anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from .records import parse_quantity

__all__ = ["covers", "drops"]

_LIST_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",), "initContainers": ("name",), "volumes": ("name",), "env": ("name",), "imagePullSecrets": ("name",), "resourceClaims": ("name",),
    "volumeMounts": ("mountPath",), "ports": ("containerPort", "port"), "ownerReferences": ("uid",),
}  # fmt: skip
_QUANTITIES: Final = frozenset({"requests", "limits", "overhead", "capacity", "sizeLimit", "divisor"})


def covers(observed: Any, desired: Any, field: str = "") -> bool:
    """True when ``desired`` is a subset of ``observed``: maps by key, lists of named things by their merge key, other lists whole."""
    if isinstance(desired, Mapping):
        return isinstance(observed, Mapping) and all(_covers_field(observed, name, value, field) for name, value in desired.items())
    if isinstance(desired, Sequence) and not isinstance(desired, str):
        return isinstance(observed, Sequence) and not isinstance(observed, str) and _covers_list(observed, desired, field)
    if observed == desired and isinstance(observed, bool) == isinstance(desired, bool):
        return True
    return field in _QUANTITIES and _same_quantity(observed, desired)


def _covers_field(observed: Mapping[str, Any], name: str, value: Any, parent: str) -> bool:
    if observed.get(name) is None:
        # the server leaves out what is empty
        return value is None or value in ("", [], {}, ())
    return covers(observed[name], value, parent if parent in _QUANTITIES else name)


def _covers_list(observed: Sequence[Any], desired: Sequence[Any], field: str) -> bool:
    for key in _LIST_KEYS.get(field, ()):
        if all(isinstance(item, Mapping) and key in item for item in desired):
            found = {item.get(key): item for item in observed}
            return all(item[key] in found and covers(found[item[key]], item) for item in desired)
    return len(observed) == len(desired) and all(covers(o, d) for o, d in zip(observed, desired, strict=True))


def _same_quantity(observed: Any, desired: Any) -> bool:
    try:
        return parse_quantity(str(observed)) == parse_quantity(str(desired))
    except ValueError:
        return False


def drops(owned: Mapping[str, Any], desired: Any) -> bool:
    """True when ``owned`` (fieldsV1 of our manager) names something that ``desired`` lacks: an apply would remove it."""
    for path, below in owned.items():
        if path == "." or path.startswith("i:"):
            continue
        part = _descend(path, desired)
        if part is None or drops(below or {}, part):
            return True
    return False


def _descend(path: str, desired: Any) -> Any:
    kind, rest = path[:2], path[2:]
    if kind == "f:":
        return desired.get(rest) if isinstance(desired, Mapping) else None
    if not isinstance(desired, Sequence) or isinstance(desired, str):
        return None
    wanted = orjson.loads(rest)
    if kind == "v:":
        return next((item for item in desired if item == wanted), None)
    # a merge key may have been defaulted (a port's protocol), so a key that the item lacks is no contradiction
    return next((item for item in desired if isinstance(item, Mapping) and all(item.get(k, v) == v for k, v in wanted.items())), None)
