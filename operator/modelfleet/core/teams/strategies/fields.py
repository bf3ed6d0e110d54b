"""Predicates over typed outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelfleet.api.v1alpha1.agentteam import FieldMatch, StepMatch
from modelfleet.core.teams.schema import canonical

__all__ = ["matches"]


def matches(rule: StepMatch | FieldMatch, value: Any) -> bool:
    """Whether a typed output's field is one of the rule's: as canonical JSON text, or a text as it is. False where there is no such field."""
    if not isinstance(value, Mapping) or rule.field not in value:
        return False
    found = value[rule.field]
    return canonical(found) in rule.one_of or (isinstance(found, str) and found in rule.one_of)
