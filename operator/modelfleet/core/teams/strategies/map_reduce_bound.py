"""How much a mapReduce can take: the sizes that follow from its plan and from the bytes of a task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelfleet.api.v1alpha1.agentteam import MapReduce
from modelfleet.core.teams.ir import TeamPlan
from modelfleet.core.teams.split import PartBound, part_bound
from modelfleet.core.teams.strategies import map_reduce_prompts as prompts
from modelfleet.core.teams.strategies.bounds import calls_bound, finalizing_extra, total
from modelfleet.core.teams.strategies.endings import MOST_PROMPT_BYTES
from modelfleet.core.teams.strategies.prompts import output_bytes, question_bytes
from modelfleet.core.teams.strategies.protocol import Bound, InputSize, RoleBound
from modelfleet.core.teams.strategies.tree import levels
from modelfleet.core.teams.tokens import text_bytes

__all__ = ["Shape", "finding_room", "map_reduce_bound", "spec_of", "summary_room"]


def spec_of(plan: TeamPlan) -> MapReduce:
    """The description. Raises TypeError for another strategy's plan."""
    if not isinstance(plan.strategy, MapReduce):
        raise TypeError(f"{plan.key}: its strategy is no mapReduce")
    return plan.strategy


def finding_room(plan: TeamPlan) -> int:
    """The most bytes of one finding in the reduce's prompt."""
    spec = spec_of(plan)
    readers = [spec.map.role, *([spec.escalate_to] if spec.escalate_to else [])]
    return max(output_bytes(plan.roles[reader]) for reader in readers)


def summary_room(plan: TeamPlan) -> int:
    """The most bytes of one input of a reduce above the first level: a summary, or a finding that had no group."""
    reduce = spec_of(plan).reduce
    return max(finding_room(plan), output_bytes(plan.roles[reduce.role]) if reduce else 0)


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a run. ``parts``: within ``maxItems``; ``question``: the most and fewest bytes of it in a prompt; ``sub_question``: the most of one."""

    plan: TeamPlan
    size: InputSize
    parts: PartBound
    tasks: int
    question: tuple[int, int]
    sub_question: int

    @classmethod
    def of(cls, plan: TeamPlan, size: InputSize) -> Shape:
        """What a task of this size comes to."""
        spec = spec_of(plan)
        parts = part_bound(spec.split, size.context_bytes or size.question_bytes)
        if parts.most > spec.split.max_items:
            parts = PartBound(spec.split.max_items, parts.fewest, parts.most_bytes, parts.fewest_bytes)
        tasks = spec.plan.max_tasks if spec.plan else 1
        sub_question = prompts.question_room(plan.roles[spec.plan.role], tasks) if spec.plan else 0
        return cls(plan, size, parts, tasks, question_bytes(size), sub_question)

    @property
    def branches(self) -> int:
        """The most readings, escalations apart."""
        return self.parts.most * self.tasks

    @property
    def frame(self) -> int:
        """The most bytes of a reduce's text without its findings."""
        planned = spec_of(self.plan).plan is not None
        return prompts.reduce_bytes(self.question[0], self.sub_question, parts=self.parts.most, tasks=self.tasks, planned=planned)

    @property
    def room(self) -> int:
        """Bytes of text of a finalizing call: those of a reduce over ``fanIn`` findings of full length, or over all if there are fewer."""
        reduce = spec_of(self.plan).reduce
        return min(self.frame + min(reduce.fan_in if reduce else 0, self.branches) * self.item(1), MOST_PROMPT_BYTES)

    def item(self, level: int) -> int:
        """The most bytes of one input of a reduce on a level of the tree, counted from 1."""
        return prompts.item_bytes(finding_room(self.plan) if level == 1 else summary_room(self.plan), self.parts.most, self.tasks)


def map_reduce_bound(plan: TeamPlan, size: InputSize) -> Bound:
    """The bound. Its least is that of a run that succeeds; one that fails early takes less."""
    shape = Shape.of(plan, size)
    if shape.parts.fewest > spec_of(plan).split.max_items:
        return Bound({})
    return total([*_planning(shape), *_reading(shape), *_reducing(shape)])


def _planning(shape: Shape) -> Iterator[tuple[str, RoleBound]]:
    plan = spec_of(shape.plan).plan
    if plan is None or not shape.parts.most:
        return
    role = shape.plan.roles[plan.role]
    frame = text_bytes(prompts.plan_text("", shape.size.context_bytes or shape.size.question_bytes, shape.parts.most))
    fewest = min(shape.parts.fewest, 1)
    yield calls_bound(
        role,
        most=1,
        fewest=fewest,
        most_text=frame + shape.question[0],
        fewest_text=fewest * shape.question[1],
        more=prompts.plan_instructions(plan.max_tasks),
    )
    # whoever prices a bound adds the role's own schema to each call; a plan call has ours instead
    yield role.name, RoleBound(max_prompt_bytes=max(text_bytes(prompts.plan_schema(plan.max_tasks)) - text_bytes(role.schema or ""), 0))


def _reading(shape: Shape) -> Iterator[tuple[str, RoleBound]]:
    spec, parts = spec_of(shape.plan), shape.parts
    most_question, fewest_question = (shape.sub_question, 0) if spec.plan else shape.question
    frame = text_bytes(prompts.part_text("", "", max(parts.most - 1, 0), parts.most))
    most_text = shape.branches * (frame + most_question) + shape.tasks * parts.most_bytes
    fewest_text = parts.fewest * (text_bytes(prompts.part_text("", "", 0, 1)) + fewest_question) + parts.fewest_bytes
    yield calls_bound(shape.plan.roles[spec.map.role], most=shape.branches, fewest=parts.fewest, most_text=most_text, fewest_text=fewest_text)
    if spec.on_branch_failure == "Escalate" and spec.escalate_to:
        yield calls_bound(shape.plan.roles[spec.escalate_to], most=shape.branches, fewest=0, most_text=most_text)


def _reducing(shape: Shape) -> Iterator[tuple[str, RoleBound]]:
    reduce = spec_of(shape.plan).reduce
    if reduce is None:
        return
    role = shape.plan.roles[reduce.role]
    tree = [(calls, calls * shape.frame + inputs * shape.item(level)) for level, (inputs, calls) in enumerate(levels(shape.branches, reduce.fan_in), 1)]
    for calls, text in tree[:-1]:
        yield calls_bound(role, most=calls, fewest=0, most_text=text, more=prompts.CONDENSE)
    yield calls_bound(role, most=1, fewest=1, most_text=tree[-1][1], fewest_text=shape.question[1])
    if shape.plan.budget.finalize:
        yield finalizing_extra(role, room=shape.room, replaced_text=tree[-1][1])
