"""chain: steps in order, each told what its template names; some may be skipped, some run again until a predicate holds.

The answer is the text of the last step that ran. Which steps a template may name is the compiler's business: a step that has not run is an empty text here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from modelfleet.api.v1alpha1.agentteam import Chain, ChainStep
from modelfleet.core.teams.ir import TeamPlan
from modelfleet.core.teams.strategies.chain_bound import chain_bound, chain_of, final_room, looped, passed_on, repeated_input
from modelfleet.core.teams.strategies.endings import CONTEXT_TOO_LONG, FAILURES, MOST_PROMPT_BYTES, Cap, ending
from modelfleet.core.teams.strategies.fields import matches
from modelfleet.core.teams.strategies.prompts import PARTIAL, clip, input_of, input_size, messages, partial_text
from modelfleet.core.teams.strategies.protocol import (
    Bound,
    BudgetRefused,
    Call,
    CallCancelled,
    CallFailed,
    CallSucceeded,
    CancelRequested,
    DeadlineReached,
    ErrorClass,
    Event,
    InputSize,
    Progress,
    State,
    Step,
    Task,
)
from modelfleet.core.teams.template import Placeholder, parse_template, render, text_of

__all__ = ["ChainState", "ChainStrategy"]

_FINAL = "final"


@dataclass(frozen=True, slots=True)
class _Output:
    """What a step left behind. ``ran`` False: it was skipped, or failed and that did not matter."""

    text: str = ""
    value: Any = None
    cut: bool = False
    ran: bool = False


@dataclass(frozen=True, slots=True)
class ChainState:
    """Where a chain is. ``open`` None: it has finished. ``cap``: the budget was refused and the finalizing call is open."""

    plan: TeamPlan
    task: Task
    at: int = 0
    iteration: int = 1
    open: str | None = None
    outputs: Mapping[str, _Output] = field(default_factory=dict)
    ran: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    error: ErrorClass | None = None
    exhausted: bool = False
    cap: Cap | None = None

    @property
    def chain(self) -> Chain:
        """The description."""
        return chain_of(self.plan)


class ChainStrategy:
    """The machine of ``strategy.chain``."""

    def start(self, plan: TeamPlan, task: Task) -> Step:
        """Asks the first step. An input that a template repeats until it is out of all proportion ends the run before any cost."""
        state = ChainState(plan, task)
        longest = max(repeated_input(plan, step, input_size(task)) for step in state.chain.steps)
        if longest > MOST_PROMPT_BYTES:
            message = f"the team's steps repeat the input until it is {longest} bytes, and the most is {MOST_PROMPT_BYTES}: send a shorter one"
            return Step(state, ending("Failed", CONTEXT_TOO_LONG, answer=None, complete=False, report={"message": message}))
        return _go_on(state)

    def step(self, state: Any, event: Event) -> Step:
        """What an event changes."""
        if not isinstance(state, ChainState) or state.open is None:
            return Step(state)
        match event:
            case CancelRequested():
                return _end(state, "Cancelled", event.by, cancel=True)
            case DeadlineReached():
                return _end(state, "TimedOut", event.by, _draft(state), cancel=True)
            case _:
                return _ended(state, event) if event.call == state.open else Step(state)

    def finalizing_call(self, plan: TeamPlan, task: Task) -> Call:
        """The last step's role, told as much as its ordinary call may be."""
        return _final_call(plan, task, "x" * final_room(plan, input_size(task)))

    def bound(self, plan: TeamPlan, size: InputSize) -> Bound:
        """Steps times iterations; retries are not in it."""
        return chain_bound(plan, size)


# --- going on ---


def _ended(state: ChainState, event: CallSucceeded | CallFailed | CallCancelled | BudgetRefused) -> Step:
    """What the end of the open call leads to."""
    if state.cap is not None:
        return _end(state, "BudgetExhausted", state.cap, event.text if isinstance(event, CallSucceeded) else None)
    match event:
        case CallSucceeded():
            return _after(state, _Output(event.text, event.value, event.cut, ran=True))
        case CallFailed():
            return _failed(state, event.error)
        case CallCancelled():
            return _failed(state, "Internal")
        case BudgetRefused():
            return _refused(state, event.cap)


def _go_on(state: ChainState) -> Step:
    """Asks the step that is next, passing over those whose ``when`` is false; ends after the last."""
    steps = state.chain.steps
    while state.at < len(steps):
        step = steps[state.at]
        if step.when is None or matches(step.when, _output(state, step.when.step).value):
            call = _call(state, step)
            return Step(replace(state, open=call.id), (Progress(f"step {step.name}"), call))
        state = _moved(_recorded(state, step, _Output()))
    return _completed(state)


def _after(state: ChainState, output: _Output) -> Step:
    step = state.chain.steps[state.at]
    return _go_on(_moved(replace(_recorded(state, step, output), open=None)))


def _failed(state: ChainState, error: ErrorClass) -> Step:
    if state.chain.steps[state.at].on_failure == "Fail":
        return _end(replace(state, error=error), "Failed", FAILURES[error])
    return _after(replace(state, error=error), _Output())


def _recorded(state: ChainState, step: ChainStep, output: _Output) -> ChainState:
    outputs = {**state.outputs, step.name: output}
    if output.ran:
        return replace(state, outputs=outputs, ran=(*state.ran, step.name))
    return replace(state, outputs=outputs, skipped=(*state.skipped, step.name))


def _moved(state: ChainState) -> ChainState:
    """On to the next step, or back to the first of a loop whose predicate does not hold yet."""
    repeat, steps = state.chain.repeat, state.chain.steps
    if repeat is None or steps[state.at].name != repeat.to_step or matches(repeat.until, _output(state, repeat.until.step).value):
        return replace(state, at=state.at + 1)
    if state.iteration >= repeat.max_iterations:
        return replace(state, at=state.at + 1, exhausted=True)
    first = next(i for i, step in enumerate(steps) if step.name == repeat.from_step)
    return replace(state, at=first, iteration=state.iteration + 1)


def _output(state: ChainState, name: str) -> _Output:
    return state.outputs.get(name, _Output())


# --- calls ---


def _call(state: ChainState, step: ChainStep) -> Call:
    role, chain = state.plan.roles[step.role], state.chain
    last = step is chain.steps[-1]
    repeated = step in looped(chain)
    judged = chain.repeat is not None and chain.repeat.until.step == step.name
    text = render(parse_template(step.input), partial(_value, state))
    return Call(
        id=f"step/{step.name}/{state.iteration if repeated else 1}",
        role=step.role,
        messages=messages(role, text),
        max_tokens=_limit(role.max_tokens, state.task) if last else role.max_tokens,
        # a step whose fields decide about the loop keeps its own form
        schema=state.task.response_schema if last and not judged and state.task.response_schema else role.schema,
        answers=last and (chain.repeat is None or not repeated or state.iteration >= chain.repeat.max_iterations),
    )


def _value(state: ChainState, named: Placeholder) -> str:
    if named.step is None:
        return input_of(state.task)
    output = _output(state, named.step)
    field_value = output.value.get(named.field) if isinstance(output.value, Mapping) else None
    text = output.text if named.field is None else text_of(field_value)
    return clip(text, passed_on(state.plan, named.step))


def _final_call(plan: TeamPlan, task: Task, text: str) -> Call:
    role = plan.roles[chain_of(plan).steps[-1].role]
    schema = task.response_schema or role.schema
    return Call(_FINAL, role.name, messages(role, text, PARTIAL), _limit(role.max_tokens, task), schema, answers=True, final=True)


def _limit(max_tokens: int, task: Task) -> int:
    return max_tokens if task.max_tokens is None else min(max_tokens, task.max_tokens)


# --- ends ---


def _completed(state: ChainState) -> Step:
    answering = next((_output(state, step.name) for step in reversed(state.chain.steps) if _output(state, step.name).ran), None)
    if answering is None:
        return _end(state, "Failed", FAILURES[state.error or "Internal"])
    if state.exhausted:
        return _end(state, "PartiallySucceeded", "MaxIterations", answering.text)
    last = state.chain.steps[-1]
    if not _output(state, last.name).ran and state.error is not None and _was_asked(state, last):
        return _end(state, "PartiallySucceeded", "BranchesFailed", answering.text)
    return _end(state, "Succeeded", "Completed", answering.text, complete=not answering.cut)


def _was_asked(state: ChainState, step: ChainStep) -> bool:
    return step.when is None or matches(step.when, _output(state, step.when.step).value)


def _refused(state: ChainState, cap: Cap) -> Step:
    draft = _draft(state)
    if not state.plan.budget.finalize or draft is not None or cap == "ProviderOverran":
        return _end(state, "BudgetExhausted", cap, draft if state.plan.budget.finalize else None)
    at_hand = [
        (step.name, clip(found.text, passed_on(state.plan, step.name))) for step in state.chain.steps if (found := _output(state, step.name)).text.strip()
    ]
    if not at_hand:
        return _end(state, "BudgetExhausted", cap)
    text = partial_text(state.task.question, at_hand, final_room(state.plan, input_size(state.task)))
    call = _final_call(state.plan, state.task, text)
    return Step(replace(state, open=call.id, cap=cap), (call,))


def _draft(state: ChainState) -> str | None:
    """The last step's text of an earlier iteration: an answer, if not the best one."""
    output = _output(state, state.chain.steps[-1].name)
    return output.text if output.ran else None


def _end(state: ChainState, how: State, why: str, answer: str | None = None, *, complete: bool = False, cancel: bool = False) -> Step:
    report = {"iterations": state.iteration, "run": list(state.ran), "skipped": list(state.skipped)}
    open_calls = [state.open] if cancel and state.open is not None else []
    return Step(replace(state, open=None), ending(how, why, answer=answer, complete=complete, report=report, cancel=open_calls))
