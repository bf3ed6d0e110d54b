"""Conditions: sixty lines that keep the promises of the Kubernetes API conventions.

``lastTransitionTime`` moves only with the status, messages are bounded, the list is sorted by type. Nothing else in
a status may depend on the clock, so an idle fleet writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modelfleet.api.conditions import ConditionType
from modelfleet.api.parse import one_line
from modelfleet.api.v1alpha1.common import Condition
from modelfleet.core.clock import Clock

__all__ = ["Finding", "bounded", "merge_conditions", "to_wire"]

MAX_MESSAGE = 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """What is true of an object now, without a time. ``status`` None: not known."""

    type: ConditionType
    status: bool | None
    reason: str
    message: str = ""


def merge_conditions(old: Iterable[Condition], new: Sequence[Finding], clock: Clock, generation: int) -> list[Condition]:
    """Conditions for ``new``, sorted by type; times of those whose status did not change come from ``old``, and types that are not in ``new`` are dropped."""
    before = {c.type: c for c in old}
    return [_merged(before.get(f.type), f, clock, generation) for f in sorted(new, key=lambda f: f.type)]


def _merged(before: Condition | None, finding: Finding, clock: Clock, generation: int) -> Condition:
    status = _word(finding.status)
    since = before.last_transition_time if before is not None and before.status == status else clock.second()
    return Condition(
        type=str(finding.type),
        status=status,
        reason=str(finding.reason),
        message=bounded(finding.message),
        last_transition_time=since,
        observed_generation=generation,
    )


def to_wire(conditions: Iterable[Condition]) -> list[dict[str, Any]]:
    """The JSON form."""
    return [c.to_wire() for c in conditions]


def _word(status: bool | None) -> Literal["True", "False", "Unknown"]:
    if status is None:
        return "Unknown"
    return "True" if status else "False"


def bounded(message: str) -> str:
    """A message as a condition holds it: one line, whatever a user's words in it contain."""
    message = one_line(message)
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
