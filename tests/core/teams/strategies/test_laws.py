"""Laws L1 to L8 of docs/adr/0010, on random plans, tasks and histories of both strategies."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st
from tests.core.teams.strategies.building import (
    MOODS,
    Mood,
    Run,
    a_map_reduce,
    a_random_chain,
    a_random_map_reduce,
    a_random_task,
    an_event,
    every_event,
    lines,
    random_run,
)

from modelfleet.core.teams.ir import TeamPlan
from modelfleet.core.teams.strategies import strategy_of
from modelfleet.core.teams.strategies.prompts import input_size, prompt_bytes
from modelfleet.core.teams.strategies.protocol import (
    BudgetRefused,
    Call,
    CallFailed,
    CallSucceeded,
    CancelCall,
    CancelRequested,
    DeadlineReached,
    Event,
    Finish,
    RoleBound,
    Step,
    Task,
)

LAWS = settings(max_examples=50, deadline=None)
seeds = st.integers(0, 2**32)


def l1_a_run_finishes_once_and_nothing_follows(run: Run) -> None:
    assert [type(command) for command in run.said].count(Finish) == 1
    assert isinstance(run.said[-1], Finish)
    assert not run.open, "open calls are given up before the end"
    for call in [*(call.id for call in run.calls), "unknown"]:
        for event in [*every_event(call), CancelRequested(), DeadlineReached()]:
            assert run.strategy.step(run.state, event) == Step(run.state)


def l2_calls_and_bytes_stay_within_the_bound(run: Run) -> None:
    bound = run.strategy.bound(run.plan, input_size(run.task))
    refused = {event.call for event in run.events if isinstance(event, BudgetRefused)}
    assert len(run.calls) <= bound.max_calls + (1 if refused else 0)
    made = [call for call in run.calls if call.id not in refused]
    for role in {call.role for call in made}:
        calls, of_role = [call for call in made if call.role == role], bound.roles[role]
        assert len(calls) <= of_role.max_calls
        assert sum(prompt_bytes(call.messages) for call in calls) <= of_role.max_prompt_bytes
        assert sum(call.max_tokens for call in calls) <= of_role.max_completion_tokens
    if run.outcome.state in {"Succeeded", "PartiallySucceeded"}:
        for role, of_role in bound.roles.items():
            calls = [call for call in run.calls if call.role == role]
            assert len(calls) >= of_role.min_calls
            assert sum(prompt_bytes(call.messages) for call in calls) >= of_role.min_prompt_bytes


def l3_ids_are_unique(run: Run) -> None:
    assert set(Counter(call.id for call in run.calls).values()) <= {1}


def l4_news_of_unknown_and_closed_calls_changes_nothing(run: Run) -> None:
    closed = [call.id for call in run.calls if call.id not in run.open]
    for call in ["unknown", "", "map/0/99", *closed[:2], *closed[-2:]]:
        for event in every_event(call):
            assert run.strategy.step(run.state, event) == Step(run.state)


def l5_a_run_has_an_open_call_or_has_finished(run: Run) -> None:
    assert bool(run.open) != (run.outcome is not None)


def l7_after_the_end_is_certain_nothing_new_begins(run: Run) -> None:
    ended = refused = False
    finals = 0
    for event, commands in zip([None, *run.events], run.commands, strict=True):
        ended = ended or isinstance(event, CancelRequested | DeadlineReached)
        refused = refused or isinstance(event, BudgetRefused)
        for command in commands:
            final = isinstance(command, Call) and command.final
            assert isinstance(command, CancelCall | Finish) or not ended
            assert isinstance(command, CancelCall | Finish) or final == refused
            finals += final
    assert finals <= (1 if run.plan.budget.finalize else 0)


def l8_a_step_leaves_the_state_it_was_given_as_it_was(run: Run) -> None:
    assert [repr(state) for state, _ in run.states] == [was for _, was in run.states]


def l8_a_journal_of_events_gives_the_same_commands(run: Run) -> None:
    again = Run(run.plan, run.task)
    for event in run.events:
        again.send(event)
    assert again.commands == run.commands
    assert again.state == run.state


def a_finalizing_call_is_never_dearer_than_what_was_set_aside(run: Run) -> None:
    held = run.strategy.finalizing_call(run.plan, run.task)
    for call in (call for call in run.calls if call.final):
        assert replace(call, messages=held.messages) == held
        assert len(call.messages) == len(held.messages)
        assert prompt_bytes(call.messages) <= prompt_bytes(held.messages)


def only_the_answer_may_be_streamed(run: Run) -> None:
    streamable = {call.id for call in run.calls if call.answers}
    streamed = [event.text for event in run.events if isinstance(event, CallSucceeded) and event.call in streamable]
    assert len(streamed) <= 1
    if streamed:
        assert run.outcome.answer == streamed[0]


AT_EVERY_STEP = (l4_news_of_unknown_and_closed_calls_changes_nothing, l5_a_run_has_an_open_call_or_has_finished)
AT_THE_END = (
    l1_a_run_finishes_once_and_nothing_follows,
    l2_calls_and_bytes_stay_within_the_bound,
    l3_ids_are_unique,
    l7_after_the_end_is_certain_nothing_new_begins,
    l8_a_journal_of_events_gives_the_same_commands,
    l8_a_step_leaves_the_state_it_was_given_as_it_was,
    a_finalizing_call_is_never_dearer_than_what_was_set_aside,
    only_the_answer_may_be_streamed,
)


def held_to_the_laws(plan: TeamPlan, task: Task, seed: int) -> None:
    def watch(run: Run) -> None:
        for law in AT_EVERY_STEP:
            law(run)

    for mood in MOODS:
        run = random_run(plan, task, mood, seed, watch=watch)
        for law in AT_THE_END:
            law(run)


@LAWS
@given(seed=seeds)
def test_laws_of_chains(seed: int) -> None:
    luck = random.Random(seed)
    held_to_the_laws(a_random_chain(luck), a_random_task(luck), seed)


@LAWS
@given(seed=seeds)
def test_laws_of_map_reduces(seed: int) -> None:
    luck = random.Random(seed)
    held_to_the_laws(a_random_map_reduce(luck), a_random_task(luck), seed)


@LAWS
@given(seed=seeds)
def test_l6_at_a_barrier_the_set_of_answers_counts_and_not_their_order(seed: int) -> None:
    luck = random.Random(seed)
    plan, task, mood = a_random_map_reduce(luck), a_random_task(luck), luck.choice([Mood(0, 0, 0), Mood(10, 0, 0), Mood(0, 10, 0)])

    def fate(call: Call) -> Event:
        # what happens to a call depends on its name alone
        return an_event(random.Random(f"{seed} {call.id}"), mood, call)

    def played(order: random.Random) -> Run:
        run = Run(plan, task)
        while run.outcome is None:
            run.send(fate(run.open[order.choice(sorted(run.open))]))
        return run

    one, other = played(random.Random(1)), played(random.Random(2))
    assert one.outcome.state == other.outcome.state
    if one.outcome.state in {"Succeeded", "PartiallySucceeded"} or (one.outcome.stop_reason != "ProviderOverran" and any(call.final for call in one.calls)):
        # the barriers were reached: runs that were cut short differ in what had ended until then
        assert one.outcome == other.outcome
        assert {call.id: call for call in one.calls} == {call.id: call for call in other.calls}


# --- the bound is reached, so it cannot be lower ---


def test_the_bound_of_the_example_in_the_design() -> None:
    plan = a_map_reduce(split={"by": "Lines", "maxItems": 200}, plan={"role": "boss", "maxTasks": 2}, reduce={"role": "boss", "fanIn": 32})
    bound = strategy_of(plan).bound(plan, input_size(lines(200)))
    assert bound.max_calls == 415
    run = Run(plan, lines(200))
    run.answer(tasks=["Who?", "When?"])
    while run.outcome is None:
        run.send(CallSucceeded(next(iter(run.open)), "found", {"ok": True}))
    assert {role: (of.max_calls, of.min_calls) for role, of in bound.roles.items()} == {"boss": (15, 1), "reader": (400, 0)}
    assert Counter(call.role for call in run.calls) == {"boss": 15, "reader": 400}


def test_the_bound_with_escalations_is_reached() -> None:
    plan = a_map_reduce(split={"by": "Chunk", "tokens": 16}, onBranchFailure="Escalate", escalateTo="senior", reduce={"role": "boss", "fanIn": 2})
    task = Task("Why?", ("x" * 640,))
    run = Run(plan, task)
    while run.outcome is None:
        call = run.open[next(iter(run.open))]
        run.send(CallFailed(call.id, "Timeout") if call.role == "reader" else CallSucceeded(call.id, "y" * 5000))
    bound = strategy_of(plan).bound(plan, input_size(task))
    assert bound.max_calls == len(run.calls) == 10 + 10 + 9
    for role in ("reader", "senior", "boss"):
        calls = [call for call in run.calls if call.role == role]
        of_role: RoleBound = bound.roles[role]
        assert len(calls) == of_role.max_calls
        assert sum(prompt_bytes(call.messages) for call in calls) >= 0.9 * of_role.max_prompt_bytes


@pytest.mark.parametrize("fan_in", [2, 3, 5, 32])
def test_bounds_of_trees_grow_with_the_findings(fan_in: int) -> None:
    plan = a_map_reduce(split={"by": "Lines", "maxItems": 1000}, reduce={"role": "boss", "fanIn": fan_in})
    of_boss = [strategy_of(plan).bound(plan, input_size(lines(n))).roles["boss"] for n in range(1, 130)]
    assert all(a.max_calls <= b.max_calls and a.max_prompt_bytes <= b.max_prompt_bytes for a, b in pairwise(of_boss))
