"""Does a node belong to an accelerator class: labels and resources against the entries of a class.

Decided here: whether the labels and resources of a node fulfil an entry of a class, and how specific that entry is.
Not decided here: which of several matching classes wins (``offers.py``). A resource that is present with quantity 0
(MIG, renamed time-slicing, a broken plugin) does not match: recorded nodes carry such leftovers.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final, assert_never

from modelfleet.api.v1alpha1.acceleratorclass import LabelRequirement, NodeEntry
from modelfleet.core.world import Node

__all__ = ["CPU", "entry_matches", "requirement_holds", "specificity"]

CPU: Final = "cpu"


def entry_matches(entry: NodeEntry, node: Node) -> bool:
    """True when the node has a device of the entry's resource and every label requirement holds."""
    if node.capacity.get(entry.resource, 0) <= 0:
        return False
    if any(node.labels.get(key) != value for key, value in (entry.match_labels or {}).items()):
        return False
    return all(requirement_holds(requirement, node.labels) for requirement in entry.match_expressions or ())


def specificity(entry: NodeEntry) -> int:
    """How many requirements the entry makes: the class with more of them wins a node that two classes match."""
    return len(entry.match_labels or {}) + len(entry.match_expressions or ())


def requirement_holds(requirement: LabelRequirement, labels: Mapping[str, str]) -> bool:
    """One label requirement, with the meaning of node affinity; ``Matches`` is a case-sensitive glob, ``Gte`` and ``Lt`` whole numbers."""
    value = labels.get(requirement.key)
    values = requirement.values or []
    match requirement.operator:
        case "Exists" | "DoesNotExist":
            return (value is not None) == (requirement.operator == "Exists")
        case "In" | "NotIn":
            return (value is not None and value in values) == (requirement.operator == "In")
        case "Matches":
            return value is not None and any(fnmatchcase(value, glob) for glob in values)
        case "Gte" | "Lt":
            return _compare(value, values, at_least=requirement.operator == "Gte")
        case never:
            assert_never(never)


def _compare(value: str | None, values: list[str], *, at_least: bool) -> bool:
    # isdecimal alone lets other scripts' digits through; labels are ASCII, so this is only about the empty string and signs
    if value is None or not value.isdecimal() or not values or not values[0].isdecimal():
        return False
    return int(value) >= int(values[0]) if at_least else int(value) < int(values[0])
