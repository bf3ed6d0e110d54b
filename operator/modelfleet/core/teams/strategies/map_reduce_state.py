"""Where a mapReduce is, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Literal

from modelfleet.api.v1alpha1.agentteam import MapReduce
from modelfleet.core.teams.ir import TeamPlan
from modelfleet.core.teams.strategies import map_reduce_prompts as prompts
from modelfleet.core.teams.strategies.endings import Cap
from modelfleet.core.teams.strategies.map_reduce_bound import spec_of
from modelfleet.core.teams.strategies.prompts import JOIN
from modelfleet.core.teams.strategies.protocol import Task
from modelfleet.core.teams.strategies.tree import groups

__all__ = ["Finding", "MapReduceState", "at_hand", "branches", "concatenated", "findings", "single", "tasks", "tolerated"]

Finding = tuple[str, str]
"""Label and text."""


@dataclass(frozen=True, slots=True)
class MapReduceState:
    """Where a mapReduce is. ``open``: call id -> index of its branch or group, and its part in ``sent``. ``found``: branch -> text, without what was dropped.

    ``level`` and ``inputs``: of the reduce tree; ``merged``: group -> its summary. ``caps``: what was refused. ``sent``: prompt bytes to the answering role,
    without refused calls.
    """

    plan: TeamPlan
    task: Task
    parts: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    stage: Literal["plan", "map", "reduce", "final", "finished"] = "plan"
    open: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    found: Mapping[int, str] = field(default_factory=dict)
    dropped: int = 0
    failed: frozenset[int] = frozenset()
    level: int = 0
    inputs: tuple[Finding, ...] = ()
    merged: Mapping[int, str] = field(default_factory=dict)
    caps: frozenset[Cap] = frozenset()
    sent: int = 0

    @property
    def spec(self) -> MapReduce:
        """The description."""
        return spec_of(self.plan)


def tolerated(state: MapReduceState) -> int:
    """Branches that may fail."""
    if state.spec.on_branch_failure == "Fail":
        return 0
    asked = branches(state)
    return asked - ceil(asked * Fraction(state.spec.min_successful.removesuffix("%")) / 100)


def branches(state: MapReduceState) -> int:
    """How many readings a run takes: parts times sub-questions."""
    return len(state.parts) * tasks(state)


def tasks(state: MapReduceState) -> int:
    """How many questions each part is read for."""
    return max(len(state.questions), 1)


def at_hand(state: MapReduceState) -> tuple[Finding, ...]:
    """The inputs of the tree's next level: summaries in order, and as it is what was not merged."""
    if state.stage == "map" or state.spec.reduce is None:
        return findings(state)
    inputs: list[Finding] = []
    for group, (begin, end) in enumerate(groups(len(state.inputs), state.spec.reduce.fan_in)):
        inputs += [(prompts.summary_label(group), state.merged[group])] if group in state.merged else state.inputs[begin:end]
    return tuple(inputs)


def findings(state: MapReduceState) -> tuple[Finding, ...]:
    """What readers found, (label, text) in the order of sub-questions and parts."""
    asked = tasks(state)
    places = ((branch, divmod(branch, len(state.parts))) for branch in sorted(state.found))
    return tuple((prompts.part_label(item, task, asked), state.found[branch]) for branch, (task, item) in places)


def single(state: MapReduceState) -> bool:
    """Whether one reduce call can take the level's inputs."""
    return state.spec.reduce is None or len(groups(len(state.inputs), state.spec.reduce.fan_in)) == 1


def concatenated(state: MapReduceState) -> str | None:
    """What a Concat has at hand; None where the findings are no answer, or where there are none."""
    if state.spec.reduce is not None or not state.found:
        return None
    return JOIN.join(state.found[branch] for branch in sorted(state.found))
