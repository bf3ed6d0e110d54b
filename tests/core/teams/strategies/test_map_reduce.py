"""mapReduce: one test for each sentence of the design, and for its edges."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.core.teams.strategies.building import SCHEMA, Run, a_map_reduce, a_role, lines, texts, typed

from modelfleet.core.teams.schema import check_schema
from modelfleet.core.teams.strategies import strategy_of
from modelfleet.core.teams.strategies.endings import MOST_PROMPT_BYTES
from modelfleet.core.teams.strategies.map_reduce_prompts import CONDENSE, plan_schema
from modelfleet.core.teams.strategies.prompts import CUT, PARTIAL, input_size, prompt_bytes
from modelfleet.core.teams.strategies.protocol import (
    Bound,
    BudgetRefused,
    CallCancelled,
    CallFailed,
    CallSucceeded,
    CancelCall,
    CancelRequested,
    DeadlineReached,
    Finish,
    InputSize,
    Outcome,
    Progress,
    Task,
)

DROP = {"map": {"role": "reader", "dropWhen": {"field": "ok", "oneOf": ["false"]}}}
PLAN = {"plan": {"role": "boss", "maxTasks": 2}}


def reads(run: Run, **fates: Any) -> None:
    """Ends every open reading: by its index in ``fates`` (``_3=...``), else with a finding."""
    for call in sorted(run.open):
        fate = fates.get("_" + call.split("/")[2])
        if call in run.open:
            run.send(CallSucceeded(call, f"found {call}", {"ok": True}) if fate is None else fate(call))


def fails(call: str) -> CallFailed:
    return CallFailed(call, "ServerError")


def says_nothing(call: str) -> CallSucceeded:
    return typed(call, ok=False)


# --- split ---


def test_more_parts_than_the_team_reads_are_refused_before_any_cost() -> None:
    run = Run(a_map_reduce(split={"by": "Lines", "maxItems": 3}), lines(4))
    assert [type(command) for command in run.said] == [Finish]
    assert (run.outcome.state, run.outcome.stop_reason, run.outcome.answer) == ("Failed", "ContextTooLong", None)
    assert run.outcome.report == {"maxItems": 3, "message": "the text has more than 3 parts, and this team reads no more: send a shorter one"}
    assert list(Run(a_map_reduce(split={"by": "Lines", "maxItems": 3}), lines(3)).open) == ["map/0/0", "map/0/1", "map/0/2"]


def test_a_finalizing_call_has_room_for_no_more_than_a_process_can_hold() -> None:
    roles = [a_role("reader", max_tokens=1_000_000), a_role("boss")]
    plan = a_map_reduce(split={"by": "Lines", "maxItems": 1000}, reduce={"role": "boss", "fanIn": 256}, roles=roles)
    assert len(strategy_of(plan).finalizing_call(plan, lines(256)).messages[-1].content) == MOST_PROMPT_BYTES


def test_a_question_that_is_put_to_each_part_is_short_or_refused() -> None:
    task = Task("x" * (MOST_PROMPT_BYTES // 500 + 1), ("a\n" * 500,))
    run = Run(a_map_reduce(split={"by": "Lines", "maxItems": 500}), task)
    assert not run.calls
    assert run.outcome.stop_reason == "ContextTooLong"
    assert "is put to each of the 500 parts" in run.outcome.report["message"]


def test_a_document_that_cannot_be_cut_is_refused_in_words() -> None:
    run = Run(a_map_reduce(split={"by": "JsonArray"}), Task("Why?", ("{}",)))
    assert (run.outcome.state, run.outcome.stop_reason) == ("Failed", "InvalidInput")
    assert "must be a JSON array" in run.outcome.report["message"]


def test_the_document_is_the_texts_before_the_question_or_else_the_question() -> None:
    with_texts = Run(a_map_reduce(), Task("Why?", ("one", "two\nthree")))
    assert [call.messages[-1].content.split("\n")[-1] for call in with_texts.calls] == ["one", "two", "three"]
    alone = Run(a_map_reduce(), Task("one\ntwo"))
    assert [call.messages[-1].content.split("\n")[-1] for call in alone.calls] == ["one", "two"]


def test_a_question_that_is_the_document_is_not_sent_whole_with_each_part() -> None:
    task = Task("Summarise this.\n" + "word " * 20_000 + "\nIn two lines.")
    run = Run(a_map_reduce(split={"by": "Chunk", "tokens": 1000}), task)
    assert len(run.calls) == 26
    for call in run.calls:
        assert len(call.messages[-1].content) < 4096 + 4200
        assert call.messages[-1].content.startswith("Question:\nSummarise this.")
        assert "\n[...]\n" in call.messages[-1].content
        assert "\nIn two lines.\n\nPart " in call.messages[-1].content


# --- plan ---


def test_the_planner_is_told_the_question_and_the_size_of_the_text_only() -> None:
    run = Run(a_map_reduce(**PLAN), Task("Why?", ("secret\nsecret",)))
    (call,) = run.calls
    assert (call.id, call.role, call.schema, call.answers) == ("plan", "boss", plan_schema(2), False)
    assert call.messages[-1].content == "Question:\nWhy?\n\nThe text has 13 bytes in 2 parts."
    assert call.messages[0].content.startswith("Answer.\n\nWrite 1 to 2 sub-questions")


@pytest.mark.parametrize("most", [1, 16])
def test_the_planners_schema_is_one_that_servers_can_be_held_to(most: int) -> None:
    assert check_schema(json.loads(plan_schema(most))) == []


def test_each_sub_question_is_read_for_in_each_part() -> None:
    run = Run(a_map_reduce(**PLAN), lines(2))
    run.answer(tasks=["Who?", "When?"])
    assert list(run.open) == ["map/0/0", "map/0/1", "map/1/0", "map/1/1"]
    assert run.open["map/1/0"].messages[-1].content == "Question:\nWhen?\n\nPart 1 of 2:\nline 0"
    reads(run)
    (call,) = run.open.values()
    assert "Sub-questions that the readers answered:\n1. Who?\n2. When?" in call.messages[-1].content
    assert "[part 2, sub-question 1]\nfound map/0/1\n\n[part 1, sub-question 2]\nfound map/1/0" in call.messages[-1].content
    run.answer("done")
    assert (run.outcome.report["tasks"], run.outcome.report["items"]) == (2, 2)


def test_sub_questions_are_asked_once_and_no_more_than_allowed() -> None:
    run = Run(a_map_reduce(**PLAN), lines(1))
    run.answer(tasks=["Who?", " Who? ", "", "When?", "Where?"])
    assert [call.messages[-1].content.split("\n")[1] for call in run.open.values()] == ["Who?", "When?"]


@pytest.mark.parametrize("value", [{"tasks": []}, {"tasks": ["  "]}, {"tasks": "Who?"}, {"other": 1}, ["Who?"]])
def test_a_plan_without_questions_ends_the_run(value: Any) -> None:
    run = Run(a_map_reduce(**PLAN), lines(1))
    run.send(CallSucceeded("plan", "", value))
    assert (run.outcome.state, run.outcome.stop_reason) == ("Failed", "PlanInvalid")


@pytest.mark.parametrize(("error", "reason"), [("InvalidOutput", "PlanInvalid"), ("Timeout", "RoleUnavailable"), ("Internal", "Internal")])
def test_a_plan_that_fails_ends_the_run(error: Any, reason: str) -> None:
    run = Run(a_map_reduce(**PLAN), lines(1))
    run.send(CallFailed("plan", error))
    assert (run.outcome.state, run.outcome.stop_reason) == ("Failed", reason)


# --- map ---


def test_every_part_is_read_with_a_fresh_context() -> None:
    run = Run(a_map_reduce(), lines(2))
    assert run.said[0] == Progress("reading 2 parts")
    assert [texts(call) for call in run.calls] == [f"system: Read.\n---\nuser: Question:\nWhy?\n\nPart {i + 1} of 2:\nline {i}" for i in range(2)]
    assert {(call.role, call.schema, call.answers, call.final) for call in run.calls} == {("reader", SCHEMA, False, False)}


def test_results_are_in_the_order_of_their_index_never_of_their_arrival() -> None:
    run = Run(a_map_reduce(), lines(12))
    for call in sorted(run.open, reverse=True):
        run.send(CallSucceeded(call, f"found {call}"))
    text = run.calls[-1].messages[-1].content
    places = [text.index(f"[part {i + 1}]\nfound map/0/{i}") for i in range(12)]
    assert places == sorted(places)


def test_empty_findings_are_dropped_before_the_boss_pays_for_them() -> None:
    run = Run(a_map_reduce(**DROP), lines(4))
    reads(run, _1=says_nothing, _2=lambda call: CallSucceeded(call, " \n", {"ok": True}))
    text = run.calls[-1].messages[-1].content
    assert [f"[part {part}]" in text for part in (1, 2, 3, 4)] == [True, False, False, True]
    run.answer("done")
    assert run.outcome == Outcome(
        "Succeeded",
        "Completed",
        "done",
        True,
        {"answeringTokens": prompt_bytes(run.calls[-1].messages) // 4, "dropped": 2, "failed": [], "items": 4, "rounds": 1, "tasks": 1},
    )


def test_with_all_findings_dropped_the_boss_is_told_so() -> None:
    run = Run(a_map_reduce(**DROP), lines(2))
    reads(run, _0=says_nothing, _1=says_nothing)
    (call,) = run.open.values()
    assert call.answers
    assert call.messages[-1].content == "Question:\nWhy?\n\nNothing relevant was found in the 2 parts of the text."
    run.answer("It does not say.")
    assert (run.outcome.state, run.outcome.answer, run.outcome.report["dropped"]) == ("Succeeded", "It does not say.", 2)


def test_an_empty_document_is_answered_too() -> None:
    run = Run(a_map_reduce(**PLAN, split={"by": "JsonArray"}), Task("Why?", ("[]",)))
    assert list(run.open) == ["reduce/1/0"]
    run.answer("Nothing there.")
    assert (run.outcome.state, run.outcome.report["items"]) == ("Succeeded", 0)


# --- failures ---


def test_need_is_rounded_up_and_failures_beyond_it_end_the_run_at_once() -> None:
    plan = a_map_reduce(minSuccessful="75%")
    run = Run(plan, lines(5))  # need = ceil(3.75) = 4: one may fail
    run.send(fails("map/0/3"))
    assert run.outcome is None
    commands = run.send(fails("map/0/0"))
    assert commands[:-1] == (CancelCall("map/0/1"), CancelCall("map/0/2"), CancelCall("map/0/4"))
    assert (run.outcome.state, run.outcome.stop_reason, run.outcome.report["failed"]) == ("Failed", "TooManyBranchesFailed", [0, 3])


def test_some_failed_but_enough_succeeded_is_a_partial_success() -> None:
    run = Run(a_map_reduce(minSuccessful="80%"), lines(5))
    reads(run, _2=fails)
    assert "Parts that are not named had nothing to say; 1 of 5 readings failed.\n\n[part 1]" in run.calls[-1].messages[-1].content
    run.answer("mostly")
    assert (run.outcome.state, run.outcome.stop_reason, run.outcome.complete, run.outcome.answer) == ("PartiallySucceeded", "BranchesFailed", False, "mostly")
    assert run.outcome.report["failed"] == [2]


@pytest.mark.parametrize(("percent", "may_fail"), [("100%", 0), ("99.9999%", 0), ("90%", 1), ("0%", 10), ("0.0001%", 9), ("33.3333%", 6)])
def test_how_many_of_ten_may_fail(percent: str, may_fail: int) -> None:
    run = Run(a_map_reduce(minSuccessful=percent), lines(10))
    for index in range(may_fail):
        run.send(fails(f"map/0/{index}"))
    assert run.outcome is None
    if may_fail < 10:
        run.send(fails("map/0/9"))
        assert run.outcome.stop_reason == "TooManyBranchesFailed"


def test_with_fail_one_failure_is_too_many() -> None:
    run = Run(a_map_reduce(minSuccessful="0%", onBranchFailure="Fail"), lines(3))
    run.send(CallCancelled("map/0/1"))
    assert (run.outcome.state, run.outcome.stop_reason) == ("Failed", "TooManyBranchesFailed")


ESCALATE = {"onBranchFailure": "Escalate", "escalateTo": "senior"}


def test_escalate_repeats_a_failed_item_once_on_another_role() -> None:
    run = Run(a_map_reduce(**ESCALATE), lines(2))
    (again,) = run.send(fails("map/0/1"))
    assert (again.id, again.role, again.messages[-1]) == ("map/0/1/escalated", "senior", run.calls[1].messages[-1])
    run.send(CallSucceeded("map/0/1/escalated", "found by the senior"))
    run.send(CallSucceeded("map/0/0", "found"))
    assert "[part 1]\nfound\n\n[part 2]\nfound by the senior" in run.calls[-1].messages[-1].content
    run.answer("done")
    assert (run.outcome.state, run.outcome.report["failed"]) == ("Succeeded", [])


def test_an_escalation_that_fails_is_a_failed_branch() -> None:
    run = Run(a_map_reduce(**ESCALATE), lines(2))
    run.send(fails("map/0/1"))
    run.send(fails("map/0/1/escalated"))
    assert (run.outcome.stop_reason, run.outcome.report["failed"]) == ("TooManyBranchesFailed", [1])


@pytest.mark.parametrize(("error", "reason"), [("InvalidOutput", "InvalidOutput"), ("TooLarge", "InvalidOutput"), ("Unavailable", "RoleUnavailable")])
def test_a_reduce_that_fails_fails_the_run(error: Any, reason: str) -> None:
    run = Run(a_map_reduce(), lines(1))
    reads(run)
    run.send(CallFailed("reduce/1/0", error))
    assert (run.outcome.state, run.outcome.stop_reason, run.outcome.answer) == ("Failed", reason, None)


# --- reduce ---


def test_one_call_reduces_as_many_findings_as_fan_in() -> None:
    run = Run(a_map_reduce(reduce={"role": "boss", "fanIn": 4}), lines(4))
    reads(run)
    (call,) = run.open.values()
    assert (call.id, call.role, call.answers) == ("reduce/1/0", "boss", True)


def test_more_findings_make_a_tree_of_nearly_equal_groups() -> None:
    run = Run(a_map_reduce(reduce={"role": "boss", "fanIn": 4}), lines(10))
    reads(run)
    assert list(run.open) == ["reduce/1/0", "reduce/1/1", "reduce/1/2"]
    assert [call.messages[-1].content.count("[part ") for call in run.open.values()] == [3, 3, 4]
    for call in run.open.values():
        assert call.messages[0].content == f"Answer.\n\n{CONDENSE}"
        assert "\n\nSome of the findings from the 10 parts of the text:\n\n[part " in call.messages[-1].content
        assert not call.answers
    for call in sorted(run.open, reverse=True):
        run.send(CallSucceeded(call, f"sum of {call}"))
    (last,) = run.open.values()
    assert (last.id, last.answers) == ("reduce/2/0", True)
    assert last.messages[-1].content.endswith("[summary 1]\nsum of reduce/1/0\n\n[summary 2]\nsum of reduce/1/1\n\n[summary 3]\nsum of reduce/1/2")
    run.answer("done")
    assert run.outcome.report["rounds"] == 2


def test_a_group_of_one_goes_up_as_it_is() -> None:
    run = Run(a_map_reduce(reduce={"role": "boss", "fanIn": 2}), lines(3))
    reads(run)
    assert list(run.open) == ["reduce/1/1"]
    run.answer("sum")
    assert run.calls[-1].messages[-1].content.endswith("[part 1]\nfound map/0/0\n\n[summary 2]\nsum")


@pytest.mark.parametrize(("items", "fan_in", "levels"), [(4, 4, 1), (5, 4, 2), (16, 4, 2), (17, 4, 3), (64, 2, 6), (65, 2, 7)])
def test_a_tree_has_at_most_the_logarithm_of_levels(items: int, fan_in: int, levels: int) -> None:
    run = Run(a_map_reduce(reduce={"role": "boss", "fanIn": fan_in}), lines(items))
    while run.outcome is None:
        run.send(CallSucceeded(next(iter(run.open)), "text"))
    assert run.outcome.report["rounds"] == levels


def test_concat_needs_no_model() -> None:
    run = Run(a_map_reduce(reducer="Concat", **DROP), lines(3))
    reads(run, _1=says_nothing)
    assert (run.outcome.state, run.outcome.answer) == ("Succeeded", "found map/0/0\n\nfound map/0/2")
    assert not run.open
    assert not any(call.answers for call in run.calls)
    assert run.outcome.report["rounds"] == 0


def test_a_finding_is_cut_to_what_the_bound_counts_and_a_concat_is_not() -> None:
    roles = [a_role("reader", max_tokens=10), a_role("boss")]
    run = Run(a_map_reduce(roles=roles), lines(1))
    run.answer("y" * 1000)
    assert run.calls[-1].messages[-1].content.endswith(f"[part 1]\n{'y' * (80 - len(CUT))}{CUT}")
    concat = Run(a_map_reduce(roles=roles, reducer="Concat"), lines(1))
    concat.answer("y" * 1000)
    assert concat.outcome.answer == "y" * 1000


def test_the_client_narrows_the_answering_call_only() -> None:
    run = Run(a_map_reduce(), replace(lines(1), max_tokens=5, response_schema='{"type":"object"}'))
    reads(run)
    assert [(call.max_tokens, call.schema) for call in run.calls] == [(100, SCHEMA), (5, '{"type":"object"}')]


def test_tokens_to_the_answering_role_count_every_call_to_it() -> None:
    run = Run(a_map_reduce(**PLAN, reduce={"role": "boss", "fanIn": 2}), lines(3))
    run.answer(tasks=["Who?"])
    while run.outcome is None:
        run.send(CallSucceeded(next(iter(run.open)), "text"))
    of_boss = [call for call in run.calls if call.role == "boss"]
    assert len(of_boss) == 3
    assert run.outcome.report["answeringTokens"] == sum(prompt_bytes(call.messages) for call in of_boss) // 4


def test_a_refused_call_was_not_sent() -> None:
    run = Run(a_map_reduce(), lines(2))
    reads(run)
    run.send(BudgetRefused("reduce/1/0"))
    run.send(BudgetRefused("final"))
    assert run.outcome.report["answeringTokens"] == 0


def test_an_answer_that_was_cut_is_not_complete() -> None:
    run = Run(a_map_reduce(), lines(1))
    reads(run)
    run.send(CallSucceeded("reduce/1/0", "and then", cut=True))
    assert (run.outcome.state, run.outcome.complete) == ("Succeeded", False)


# --- budget, time, cancellation ---


def test_a_refused_reading_ends_in_one_call_over_what_is_at_hand() -> None:
    run = Run(a_map_reduce(), lines(3))
    run.send(CallSucceeded("map/0/1", "early"))
    assert run.send(BudgetRefused("map/0/2")) == ()
    (call,) = run.send(CallSucceeded("map/0/0", "late, but paid for"))
    assert (call.id, call.role, call.answers, call.final) == ("final", "boss", True, True)
    assert texts(call) == f"system: Answer.\n\n{PARTIAL}\n---\nuser: Question:\nWhy?\n\nAt hand:\n\n[part 1]\nlate, but paid for\n\n[part 2]\nearly"
    run.answer("partly")
    assert (run.outcome.state, run.outcome.stop_reason, run.outcome.answer, run.outcome.complete) == ("BudgetExhausted", "RunCost", "partly", False)


def test_after_a_refusal_nothing_is_escalated_and_failures_do_not_count() -> None:
    run = Run(a_map_reduce(**ESCALATE), lines(3))
    run.send(BudgetRefused("map/0/0"))
    assert run.send(fails("map/0/1")) == ()
    run.send(CallSucceeded("map/0/2", "found"))
    assert list(run.open) == ["final"]


def test_several_caps_are_named_by_the_first_of_a_fixed_order() -> None:
    for first, second in (("RunCost", "RunTokens"), ("RunTokens", "RunCost")):
        run = Run(a_map_reduce(), lines(2))
        run.send(BudgetRefused("map/0/0", first))
        run.send(BudgetRefused("map/0/1", second))
        assert (run.outcome.state, run.outcome.stop_reason, run.outcome.answer) == ("BudgetExhausted", "RunCost", None)


def test_a_refused_plan_leaves_nothing_at_hand() -> None:
    run = Run(a_map_reduce(**PLAN), lines(2))
    assert [type(command) for command in run.send(BudgetRefused("plan"))] == [Finish]
    assert (run.outcome.state, run.outcome.answer) == ("BudgetExhausted", None)


def test_a_refused_reduce_is_finalized_on_the_findings() -> None:
    run = Run(a_map_reduce(), lines(2))
    reads(run)
    (call,) = run.send(BudgetRefused("reduce/1/0"))
    assert call.final
    assert call.messages[-1].content.endswith("[part 1]\nfound map/0/0\n\n[part 2]\nfound map/0/1")


def test_a_refusal_within_a_tree_is_finalized_on_summaries_and_findings() -> None:
    run = Run(a_map_reduce(reduce={"role": "boss", "fanIn": 2}), lines(5))
    reads(run)
    assert list(run.open) == ["reduce/1/1", "reduce/1/2"]
    run.send(BudgetRefused("reduce/1/1"))
    (call,) = run.send(CallSucceeded("reduce/1/2", "sum"))
    at_hand = "[part 1]\nfound map/0/0\n\n[part 2]\nfound map/0/1\n\n[part 3]\nfound map/0/2\n\n[summary 3]\nsum"
    assert call.messages[-1].content.endswith(at_hand)


def test_a_summary_that_fails_after_a_refusal_leaves_its_findings_at_hand() -> None:
    run = Run(a_map_reduce(reduce={"role": "boss", "fanIn": 2}), lines(4))
    reads(run)
    run.send(BudgetRefused("reduce/1/0"))
    (call,) = run.send(fails("reduce/1/1"))
    assert call.final
    assert call.messages[-1].content.count("[part ") == 4


def test_fail_gives_up_everything_at_once() -> None:
    run = Run(a_map_reduce(finalize=False), lines(3))
    run.send(CallSucceeded("map/0/0", "found"))
    assert [type(command) for command in run.send(BudgetRefused("map/0/1"))] == [CancelCall, Finish]
    assert (run.outcome.state, run.outcome.answer) == ("BudgetExhausted", None)


def test_after_an_overrun_no_call_is_made() -> None:
    run = Run(a_map_reduce(), lines(3))
    run.send(CallSucceeded("map/0/0", "found"))
    assert [type(command) for command in run.send(BudgetRefused("map/0/1", "ProviderOverran"))] == [CancelCall, Finish]
    assert (run.outcome.stop_reason, run.outcome.answer) == ("ProviderOverran", None)


def test_the_finalizing_prompt_is_cut_to_what_was_set_aside_and_says_so() -> None:
    run = Run(a_map_reduce(roles=[a_role("reader", max_tokens=20), a_role("boss")], reduce={"role": "boss", "fanIn": 2}), lines(9))
    for call in sorted(run.open)[:8]:
        run.send(CallSucceeded(call, "z" * 160))
    (call,) = run.send(BudgetRefused("map/0/8"))
    text = call.messages[-1].content
    assert text.endswith("\n\n[6 more did not fit]")
    assert text.count("z" * 160) == 2
    assert prompt_bytes(call.messages) <= prompt_bytes(run.strategy.finalizing_call(run.plan, run.task).messages)


def test_a_concat_finalizes_and_times_out_with_what_it_has() -> None:
    for event, state in ((BudgetRefused("map/0/1"), "BudgetExhausted"), (DeadlineReached(), "TimedOut")):
        run = Run(a_map_reduce(reducer="Concat"), lines(2))
        run.send(CallSucceeded("map/0/0", "found"))
        run.send(event)
        assert (run.outcome.state, run.outcome.answer, run.outcome.complete, len(run.calls)) == (state, "found", False, 2)


def test_a_concat_sets_nothing_aside() -> None:
    plan = a_map_reduce(reducer="Concat")
    held = strategy_of(plan).finalizing_call(plan, lines(2))
    assert (held.messages, held.max_tokens, held.role) == ((), 0, "reader")


def test_findings_are_no_answer_when_time_is_up() -> None:
    run = Run(a_map_reduce(), lines(2))
    run.send(CallSucceeded("map/0/0", "found"))
    assert [type(command) for command in run.send(DeadlineReached("ClientDeadline"))] == [CancelCall, Finish]
    assert (run.outcome.state, run.outcome.stop_reason, run.outcome.answer) == ("TimedOut", "ClientDeadline", None)


def test_a_cancelled_run_gives_up_all_calls() -> None:
    run = Run(a_map_reduce(), lines(3))
    assert [type(command) for command in run.send(CancelRequested("ClientGone"))] == [CancelCall] * 3 + [Finish]
    assert (run.outcome.state, run.outcome.stop_reason, run.outcome.answer) == ("Cancelled", "ClientGone", None)


# --- bound ---


def test_a_document_that_is_refused_for_its_length_costs_nothing() -> None:
    plan = a_map_reduce(split={"by": "Chunk", "tokens": 100, "maxItems": 5})
    strategy = strategy_of(plan)
    assert strategy.bound(plan, InputSize(4, 2001)) == Bound({})
    assert strategy.bound(plan, InputSize(4, 2000)).max_calls == 6


def test_of_chunks_the_least_is_known_too() -> None:
    plan = a_map_reduce(**PLAN, split={"by": "Chunk", "tokens": 100, "maxItems": 5})
    task = Task("Why?", ("x" * 1999,))
    roles = strategy_of(plan).bound(plan, input_size(task)).roles
    assert {name: (role.max_calls, role.min_calls) for name, role in roles.items()} == {"boss": (2, 2), "reader": (10, 5)}
    assert roles["reader"].min_prompt_bytes > 1999


def test_a_wrong_strategy_is_a_mistake_of_ours() -> None:
    plan = a_map_reduce()
    with pytest.raises(TypeError, match="demo/team"):
        strategy_of(replace(plan, strategy=None)).start(replace(plan, strategy=None), lines(1))
