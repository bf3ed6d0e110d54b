"""Does a node belong to an accelerator class: what the node has, its labels and its resources against the entries of a class.

Decided here: whether a node fulfils an entry of a class, and how specific that entry is. Not decided here: what hardware a node has
(``recognise.py``, the one reading of it), nor which of several matching classes wins (``offers.py``). A resource that is present with quantity 0
(MIG, renamed time-slicing, a broken plugin) does not match: recorded nodes carry such leftovers.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final, assert_never

from modelfleet.api.v1alpha1.acceleratorclass import Hardware, LabelRequirement, NodeEntry
from modelfleet.core.world import Node

from .facts import Recognition
from .recognise import recognise_node

__all__ = ["CPU", "entry_matches", "requirement_holds", "specificity"]

CPU: Final = "cpu"
_MIG: Final = "nvidia.com/mig-"
"""Resources that name their slice: they stand beside whole cards, so the node alone does not tell what a unit is."""


def entry_matches(entry: NodeEntry, node: Node, found: Recognition | None = None) -> bool:
    """True when the node has a device of the entry's resource, is the hardware asked for, and every label requirement holds.

    ``found``: what the node was recognised as, where the caller knows it already.
    """
    if node.capacity.get(entry.resource, 0) <= 0:
        return False
    if any(node.labels.get(key) != value for key, value in (entry.match_labels or {}).items()):
        return False
    if entry.hardware is not None and not _hardware_holds(entry.hardware, entry.resource, found or recognise_node(node)):
        return False
    return all(requirement_holds(requirement, node.labels) for requirement in entry.match_expressions or ())


def specificity(entry: NodeEntry) -> int:
    """How many requirements the entry makes: the class with more of them wins a node that two classes match."""
    hardware = 0 if entry.hardware is None else 1 + (entry.hardware.profile is not None)
    return hardware + len(entry.match_labels or {}) + len(entry.match_expressions or ())


def _hardware_holds(hardware: Hardware, resource: str, found: Recognition) -> bool:
    unit, profile = ("MigSlice", resource.removeprefix(_MIG)) if resource.startswith(_MIG) else (found.unit, found.profile)
    if (found.part, unit) != (hardware.catalogue_id, hardware.unit):
        return False
    return hardware.profile is None or hardware.profile.lower() == profile.lower()


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
