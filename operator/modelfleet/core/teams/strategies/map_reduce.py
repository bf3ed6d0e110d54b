"""mapReduce: small roles read the parts of a document, each with a fresh context; one role answers from what they found.

Results are ordered by their index, never by their arrival. Calls that are open when the budget is refused are waited for: they are paid for, and with them
the result depends on what was answered, not on when.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modelfleet.core.teams.ir import RolePlan, TeamPlan
from modelfleet.core.teams.split import BYTES_PER_TOKEN, MalformedDocument, split_document
from modelfleet.core.teams.strategies import map_reduce_prompts as prompts
from modelfleet.core.teams.strategies.endings import CONTEXT_TOO_LONG, FAILURES, INVALID_INPUT, MOST_PROMPT_BYTES, Cap, ending, first_cap
from modelfleet.core.teams.strategies.fields import matches
from modelfleet.core.teams.strategies.map_reduce_bound import Shape, finding_room, map_reduce_bound, spec_of, summary_room
from modelfleet.core.teams.strategies.map_reduce_state import (
    Finding,
    MapReduceState,
    at_hand,
    branches,
    concatenated,
    findings,
    single,
    tasks,
    tolerated,
)
from modelfleet.core.teams.strategies.prompts import PARTIAL, clip, document_of, input_size, messages, partial_text, prompt_bytes, question_of
from modelfleet.core.teams.strategies.protocol import (
    Bound,
    BudgetRefused,
    Call,
    CallCancelled,
    CallFailed,
    CallSucceeded,
    CancelRequested,
    Command,
    DeadlineReached,
    Event,
    InputSize,
    Progress,
    State,
    Step,
    Task,
)
from modelfleet.core.teams.strategies.tree import groups
from modelfleet.core.teams.tokens import text_bytes

__all__ = ["MapReduceStrategy"]

_PLAN = "plan"
_FINAL = "final"
_AGAIN = "/escalated"

_Ended = CallSucceeded | CallFailed | CallCancelled | BudgetRefused


class MapReduceStrategy:
    """The machine of ``strategy.mapReduce``."""

    def start(self, plan: TeamPlan, task: Task) -> Step:
        """Splits the document and asks the planner, or else all readers. A document that cannot be read ends the run before any cost."""
        state = MapReduceState(plan, task)
        try:
            parts = split_document(state.spec.split, document_of(task))
        except MalformedDocument as error:
            return _refuse_input(state, INVALID_INPUT, {"message": error.message})
        most = state.spec.split.max_items
        if len(parts) > most:
            message = f"the text has more than {most} parts, and this team reads no more: send a shorter one"
            return _refuse_input(state, CONTEXT_TOO_LONG, {"maxItems": most, "message": message})
        repeated = len(parts) * text_bytes(question_of(task))
        if repeated > MOST_PROMPT_BYTES:
            message = f"the last message is the question, and is put to each of the {len(parts)} parts: {repeated} bytes in all, at most {MOST_PROMPT_BYTES}"
            return _refuse_input(state, CONTEXT_TOO_LONG, {"items": len(parts), "message": message})
        state = replace(state, parts=parts)
        return _plan(state) if state.spec.plan and parts else _map(state, ())

    def step(self, state: Any, event: Event) -> Step:
        """What an event changes."""
        if not isinstance(state, MapReduceState) or state.stage == "finished":
            return Step(state)
        match event:
            case CancelRequested():
                return _end(state, "Cancelled", event.by)
            case DeadlineReached():
                return _end(state, "TimedOut", event.by, concatenated(state))
            case _:
                return _ended(state, event) if event.call in state.open else Step(state)

    def finalizing_call(self, plan: TeamPlan, task: Task) -> Call:
        """The reduce role, told as much as an ordinary reduce may be. A Concat ends without a call: then the one returned has no messages and no tokens."""
        if spec_of(plan).reduce is None:
            return Call(_FINAL, plan.answering_role, (), max_tokens=0, answers=True, final=True)
        return _final_call(plan, task, "x" * Shape.of(plan, input_size(task)).room)

    def bound(self, plan: TeamPlan, size: InputSize) -> Bound:
        """Of the most and fewest parts that so many bytes can be cut into; a document that is refused for its length costs nothing."""
        return map_reduce_bound(plan, size)


# --- what the end of a call leads to ---


def _ended(state: MapReduceState, event: _Ended) -> Step:
    index, sent = state.open[event.call]
    state = replace(state, open={call: at for call, at in state.open.items() if call != event.call})
    if state.stage == "final":
        state = replace(state, sent=state.sent - sent) if isinstance(event, BudgetRefused) else state
        return _end(state, "BudgetExhausted", first_cap(state.caps), event.text if isinstance(event, CallSucceeded) else None)
    if isinstance(event, BudgetRefused):
        return _refused(replace(state, sent=state.sent - sent), event.cap)
    if isinstance(event, CallSucceeded):
        return _succeeded(state, index, event)
    error = event.error if isinstance(event, CallFailed) else "Internal"
    if state.stage == "map":
        return _not_read(state, index, event.call)
    if state.stage == "reduce" and state.caps:
        return _waited(state)
    return _end(state, "Failed", "PlanInvalid" if state.stage == "plan" and error == "InvalidOutput" else FAILURES[error])


def _succeeded(state: MapReduceState, index: int, event: CallSucceeded) -> Step:
    if state.stage == "plan":
        return _planned(state, event.value)
    if state.stage == "map":
        return _waited(_read(state, index, event))
    if single(state):
        return _completed(state, event.text, cut=event.cut)
    return _waited(replace(state, merged={**state.merged, index: event.text}))


def _refused(state: MapReduceState, cap: Cap) -> Step:
    state = replace(state, caps=state.caps | {cap})
    if cap == "ProviderOverran" or not state.plan.budget.finalize:
        return _end(state, "BudgetExhausted", cap, concatenated(state) if state.plan.budget.finalize else None)
    return _waited(state)


def _waited(state: MapReduceState) -> Step:
    """Goes on once every call of the stage has ended."""
    if state.open:
        return Step(state)
    if state.caps:
        return _finalize(state)
    return _reduce(state) if state.stage == "map" else _level(state, at_hand(state))


def _finalize(state: MapReduceState) -> Step:
    inputs = () if state.stage == "plan" else at_hand(state)
    if state.spec.reduce is None or not inputs:
        return _end(state, "BudgetExhausted", first_cap(state.caps), concatenated(state))
    room = summary_room(state.plan)
    text = partial_text(question_of(state.task), [(label, clip(found, room)) for label, found in inputs], Shape.of(state.plan, input_size(state.task)).room)
    return _asked(replace(state, stage="final"), {0: _final_call(state.plan, state.task, text)})


# --- plan and map ---


def _plan(state: MapReduceState) -> Step:
    plan = state.spec.plan
    if plan is None:
        raise TypeError(f"{state.plan.key}: its mapReduce has no plan")
    role = state.plan.roles[plan.role]
    text = prompts.plan_text(question_of(state.task), text_bytes(document_of(state.task)), len(state.parts))
    prompt = messages(role, text, prompts.plan_instructions(plan.max_tasks))
    call = Call(_PLAN, role.name, prompt, role.max_tokens, prompts.plan_schema(plan.max_tasks))
    return _asked(state, {0: call}, f"planning over {len(state.parts)} parts")


def _planned(state: MapReduceState, value: Any) -> Step:
    plan = state.spec.plan
    if plan is None:
        raise TypeError(f"{state.plan.key}: its mapReduce has no plan")
    questions = prompts.read_questions(value, plan.max_tasks, prompts.question_room(state.plan.roles[plan.role], plan.max_tasks))
    return _map(state, questions) if questions else _end(state, "Failed", "PlanInvalid")


def _map(state: MapReduceState, questions: tuple[str, ...]) -> Step:
    """Asks a reader for each part and sub-question, or goes on if there is nothing to read."""
    state = replace(state, questions=questions, stage="map")
    role = state.plan.roles[state.spec.map.role]
    calls = {branch: _reading(state, role, branch) for branch in range(branches(state))}
    return _asked(state, calls, f"reading {len(state.parts)} parts") if calls else _reduce(state)


def _reading(state: MapReduceState, role: RolePlan, branch: int, again: str = "") -> Call:
    task, item = divmod(branch, len(state.parts))
    question = state.questions[task] if state.questions else question_of(state.task)
    text = prompts.part_text(question, state.parts[item], item, len(state.parts))
    return Call(f"map/{task}/{item}{again}", role.name, messages(role, text), role.max_tokens, role.schema)


def _read(state: MapReduceState, branch: int, event: CallSucceeded) -> MapReduceState:
    rule = state.spec.map.drop_when
    if not event.text.strip() or (rule is not None and matches(rule, event.value)):
        return replace(state, dropped=state.dropped + 1)
    return replace(state, found={**state.found, branch: event.text})


def _not_read(state: MapReduceState, branch: int, call: str) -> Step:
    spec = state.spec
    if spec.on_branch_failure == "Escalate" and spec.escalate_to and not call.endswith(_AGAIN) and not state.caps:
        again = _reading(state, state.plan.roles[spec.escalate_to], branch, _AGAIN)
        return _asked(state, {branch: again})
    state = replace(state, failed=state.failed | {branch})
    if not state.caps and len(state.failed) > tolerated(state):
        return _end(state, "Failed", "TooManyBranchesFailed")
    return _waited(state)


# --- reduce ---


def _reduce(state: MapReduceState) -> Step:
    if state.spec.reduce is None:
        return _completed(state, concatenated(state) or "")
    return _level(replace(state, stage="reduce"), findings(state))


def _level(state: MapReduceState, inputs: tuple[Finding, ...]) -> Step:
    """Asks for the answer if one call can take the inputs, or else for a summary of each group of them."""
    spec = state.spec.reduce
    if spec is None:
        raise TypeError(f"{state.plan.key}: its mapReduce has no reduce role")
    state = replace(state, level=state.level + 1, inputs=inputs, merged={})
    role, made = state.plan.roles[spec.role], groups(len(inputs), spec.fan_in)
    if len(made) == 1:
        text = _reduce_text(state, inputs)
        call = Call(
            f"reduce/{state.level}/0", role.name, messages(role, text), _limit(role, state.task), state.task.response_schema or role.schema, answers=True
        )
        return _asked(state, {0: call}, f"answering from {len(inputs)} findings")
    calls = {
        group: Call(
            f"reduce/{state.level}/{group}",
            role.name,
            messages(role, _reduce_text(state, inputs[begin:end]), prompts.CONDENSE),
            role.max_tokens,
            role.schema,
        )
        for group, (begin, end) in enumerate(made)
        if end - begin > 1
    }
    return _asked(state, calls, f"condensing {len(inputs)} findings")


def _reduce_text(state: MapReduceState, inputs: tuple[Finding, ...]) -> str:
    room = finding_room(state.plan) if state.level == 1 else summary_room(state.plan)
    which: prompts.Which = "some" if not single(state) else "all" if state.level == 1 else "condensed"
    failed = len(state.failed)
    return prompts.reduce_text(question_of(state.task), state.questions, inputs, room, parts=len(state.parts), failed=failed, which=which)


# --- calls ---


def _asked(state: MapReduceState, calls: Mapping[int, Call], progress: str = "") -> Step:
    """The calls become open; what goes to the answering role is counted."""
    answering = state.plan.answering_role
    opened = {call.id: (index, prompt_bytes(call.messages) if call.role == answering else 0) for index, call in calls.items()}
    said: tuple[Command, ...] = (Progress(progress),) if progress else ()
    return Step(replace(state, open={**state.open, **opened}, sent=state.sent + sum(sent for _, sent in opened.values())), (*said, *calls.values()))


def _final_call(plan: TeamPlan, task: Task, text: str) -> Call:
    reduce = spec_of(plan).reduce
    role = plan.roles[reduce.role if reduce else plan.answering_role]
    return Call(_FINAL, role.name, messages(role, text, PARTIAL), _limit(role, task), task.response_schema or role.schema, answers=True, final=True)


def _limit(role: RolePlan, task: Task) -> int:
    return role.max_tokens if task.max_tokens is None else min(role.max_tokens, task.max_tokens)


# --- ends ---


def _refuse_input(state: MapReduceState, why: str, report: Mapping[str, Any]) -> Step:
    return Step(replace(state, stage="finished"), ending("Failed", why, answer=None, complete=False, report=report))


def _completed(state: MapReduceState, answer: str, *, cut: bool = False) -> Step:
    if state.failed:
        return _end(state, "PartiallySucceeded", "BranchesFailed", answer)
    return _end(state, "Succeeded", "Completed", answer, complete=not cut)


def _end(state: MapReduceState, how: State, why: str, answer: str | None = None, *, complete: bool = False) -> Step:
    report = {
        "answeringTokens": state.sent // BYTES_PER_TOKEN,
        "dropped": state.dropped,
        "failed": sorted(state.failed),
        "items": len(state.parts),
        "rounds": state.level,
        "tasks": tasks(state),
    }
    return Step(replace(state, stage="finished", open={}), ending(how, why, answer=answer, complete=complete, report=report, cancel=state.open))
