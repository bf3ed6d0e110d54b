"""What a mapReduce's planner, readers and answerer are told, and how long those texts can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

from modelfleet.core.teams.ir import RolePlan
from modelfleet.core.teams.schema import canonical
from modelfleet.core.teams.strategies.prompts import clip, output_bytes
from modelfleet.core.teams.tokens import text_bytes

__all__ = [
    "CONDENSE",
    "item_bytes",
    "part_label",
    "part_text",
    "plan_instructions",
    "plan_schema",
    "plan_text",
    "question_room",
    "read_questions",
    "reduce_bytes",
    "reduce_text",
    "summary_label",
]

Which = Literal["all", "some", "condensed"]
"""What a reduce is given: all findings, a group of them, or summaries of all groups."""

CONDENSE: Final = (
    "These are some of the findings, not all. Do not answer yet: condense them for whoever will. Keep each fact that bears on the question and the part it "
    "is from, drop repetitions, add nothing."
)
"""Added to the instructions of a reduce call whose text is not the answer."""


def plan_schema(max_tasks: int) -> str:
    """Canonical JSON text of the schema that a planner's answer must fit."""
    tasks = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": max_tasks}
    return canonical({"type": "object", "properties": {"tasks": tasks}, "required": ["tasks"], "additionalProperties": False})


def plan_instructions(max_tasks: int) -> str:
    """Added to a planner's instructions."""
    return (
        f"Write 1 to {max_tasks} sub-questions (tasks) that readers will answer for each part of a text you do not see. "
        "Each reader sees one part and one sub-question and nothing else, so each must stand on its own."
    )


def plan_text(question: str, document_bytes: int, parts: int) -> str:
    """What a planner is told: the question, and of the text its size alone."""
    return f"Question:\n{question}\n\nThe text has {document_bytes} bytes in {parts} parts."


def question_room(planner: RolePlan, max_tasks: int) -> int:
    """The most bytes of one sub-question."""
    return output_bytes(planner) // max_tasks


def read_questions(value: Any, max_tasks: int, room: int) -> tuple[str, ...]:
    """The sub-questions of a planner's answer: each once, in order; none if it holds none."""
    tasks = value.get("tasks") if isinstance(value, dict) else None
    texts = [clip(task.strip(), room) for task in tasks if isinstance(task, str) and task.strip()] if isinstance(tasks, list) else []
    return tuple(dict.fromkeys(texts))[:max_tasks]


def part_text(question: str, part: str, index: int, parts: int) -> str:
    """What a reader is told. ``index`` counts from 0."""
    return f"Question:\n{question}\n\nPart {index + 1} of {parts}:\n{part}"


def part_label(item: int, task: int, tasks: int) -> str:
    """The name of a finding. Both counts from 0."""
    return f"part {item + 1}" if tasks == 1 else f"part {item + 1}, sub-question {task + 1}"


def summary_label(group: int) -> str:
    """The name of a condensed group of findings, counted from 0."""
    return f"summary {group + 1}"


def reduce_text(
    question: str, sub_questions: Sequence[str], findings: Sequence[tuple[str, str]], room: int, *, parts: int, failed: int, which: Which = "all"
) -> str:
    """What the reduce role is told: (label, text) of each finding, each cut to ``room`` bytes, or that there is none."""
    asked = "".join(f"\n{number}. {text}" for number, text in enumerate(sub_questions, 1))
    head = f"Question:\n{question}" + (f"\n\nSub-questions that the readers answered:{asked}" if asked else "")
    unread = f"; {failed} of {parts * max(len(sub_questions), 1)} readings failed" if failed else ""
    if not findings:
        return f"{head}\n\nNothing relevant was found in the {parts} parts of the text{unread}."
    listed = "".join(f"\n\n[{label}]\n{clip(text, room)}" for label, text in findings)
    match which:
        case "all":
            return f"{head}\n\nFindings from the {parts} parts of the text. Parts that are not named had nothing to say{unread}.{listed}"
        case "some":
            return f"{head}\n\nSome of the findings from the {parts} parts of the text:{listed}"
        case "condensed":
            return f"{head}\n\nFindings from the {parts} parts of the text, condensed in groups{unread}.{listed}"


def item_bytes(room: int, parts: int, tasks: int) -> int:
    """The most bytes that one finding of ``room`` bytes adds to a reduce."""
    longest = max(part_label(max(parts, 1) - 1, tasks - 1, tasks), summary_label(max(parts * tasks, 1) - 1), key=len)
    return len(f"\n\n[{longest}]\n") + room


def reduce_bytes(question: int, sub_question: int, *, parts: int, tasks: int, planned: bool) -> int:
    """The most bytes of a reduce's text without its findings, told from the bytes of the question and of each sub-question."""
    blank, failed = [""] * tasks if planned else [], parts * tasks
    frames = [text_bytes(reduce_text("", blank, [("", "")], 0, parts=parts, failed=failed, which=which)) - len("\n\n[]\n") for which in get_args(Which)]
    return max(*frames, text_bytes(reduce_text("", blank, [], 0, parts=parts, failed=failed))) + question + (tasks * sub_question if planned else 0)
