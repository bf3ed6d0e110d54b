"""The engine against the scripted server: whole runs, their limits and their ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import traceback
from dataclasses import replace

import pytest
from tests.support.scripted_model import Script, ScriptedModel
from tests.support.scripted_team import BOOK, BOSS, HOSTED, SERVED, TARGETS, an_engine, chain_team, document, map_reduce_team, request, roles

from modelfleet.core.teams.ir import RoleTarget
from modelfleet.core.teams.strategies.protocol import Task
from modelfleet.teamserver import engine as runs
from modelfleet.teamserver.circuits import PAUSE
from modelfleet.teamserver.journal.protocol import JournalError
from modelfleet.teamserver.journal.sqlite import SqliteJournal
from modelfleet.teamserver.metrics import TeamMetrics
from modelfleet.teamserver.records import read_pinned, read_plan, read_result

BILLED = ("server_error", "reset_before", "reset_after", "cut", "garbage")
UNBILLED = ("rate_limited", "overloaded")


def model(**script):
    return ScriptedModel(Script(**script), SERVED, BOOK)


def reserved(metrics: TeamMetrics) -> float:
    return metrics.registry.get_sample_value("modelfleet_team_reservation_open_micro_usd", {"team": "legal/review"}) or 0.0


async def until(true, tries: int = 18_000) -> None:
    for _ in range(tries):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


async def test_a_run_is_what_the_witness_saw(tmp_path):
    async with model(seed=1) as server, an_engine(tmp_path / "j", server.url) as (engine, journal):
        run = await engine.submit(request(map_reduce_team(), document(20)))
        result = await run.result()
        text = "".join([piece async for piece in run.text()])
        assert (result.outcome.state, result.outcome.stop_reason) == ("Succeeded", "Completed")
        assert text == result.outcome.answer
        assert set(server.calls().values()) == {1}
        assert len(server.calls()) == result.calls == 21
        assert result.cost_micro_usd == server.cost
        assert result.prompt_tokens == sum(seen.prompt for seen in server.seen)
        assert result.completion_tokens == sum(seen.completion for seen in server.seen)
        assert sum(role.cost_micro_usd for role in result.by_role) == result.cost_micro_usd
        assert result.budget_left_micro_usd == 1_000_000 - server.cost
        assert not result.assumed
        rows = await journal.calls(run.id)
        assert sum(row.charged for row in rows) == server.cost
        assert {row.state for row in rows} == {"settled"}
        row = await journal.run(run.id)
        assert row.state == "Succeeded"
        assert read_result(row.result) == result
        assert engine.run(run.id) is None
        assert not server.refused_grants
        assert {seen.grant.caller for seen in server.seen} == {"ada"}
        assert all(seen.cost <= seen.grant.max_cost_micro_usd for seen in server.seen)


@pytest.mark.parametrize("plain", [0.0, 1.0])
async def test_the_answer_streams_and_is_the_same_in_one_piece(tmp_path, plain):
    async with model(pause=0.002, completion=(30, 40), plain=plain) as server, an_engine(tmp_path / "j", server.url) as (engine, _):
        run = await engine.submit(request(chain_team()))
        pieces = [piece async for piece in run.text()]
        result = await run.result()
        late = [piece async for piece in run.text()]
    assert result.outcome.state == "Succeeded"
    assert "".join(pieces) == "".join(late) == result.outcome.answer
    assert len(pieces) > 1 or plain
    assert len(late) == 1


@pytest.mark.parametrize("fault", [*UNBILLED, "server_error", "reset_before", "hang"])
async def test_a_failed_attempt_is_followed_by_another_with_money_of_its_own(tmp_path, fault):
    team = chain_team(of=roles(schema=False, timeout=1.0 if fault == "hang" else 20.0))
    async with (
        model(fate=lambda grant, number: fault if number == 1 else None, completion=(1, 4)) as server,
        an_engine(tmp_path / "j", server.url) as (engine, journal),
    ):
        run = await engine.submit(request(team))
        result = await run.result()
        first, second = await journal.calls(run.id)
    assert result.outcome.state == "Succeeded"
    assert [seen.grant.call for seen in server.seen] == ["step/only/1#0", "step/only/1#1"]
    assert first.reserved == second.reserved
    assert (first.state, first.charged) == (("released", 0) if fault in UNBILLED else ("assumed", first.reserved))
    assert second.state == "settled"
    assert result.assumed is (fault not in UNBILLED)
    assert result.calls == 2
    assert result.cost_micro_usd >= server.cost


async def test_attempts_end_with_the_roles_retries(tmp_path):
    async with model(faults={"server_error": 1.0}) as server, an_engine(tmp_path / "j", server.url) as (engine, _):
        run = await engine.submit(request(chain_team()))
        result = await run.result()
        once = await engine.submit(request(chain_team(of=roles(schema=False, retry_on=frozenset({"Timeout"})))))
        assert (await once.result()).outcome.stop_reason == "RoleUnavailable"
    assert (result.outcome.state, result.outcome.stop_reason) == ("Failed", "RoleUnavailable")
    assert server.calls(run.id) == {"step/only/1": 3}
    assert server.calls(once.id) == {"step/only/1": 1}


@pytest.mark.parametrize("fault", ["reset_after", "cut", "garbage"])
async def test_text_that_went_out_is_not_asked_for_again(tmp_path, fault):
    async with model(faults={fault: 1.0}, pause=0.001, completion=(20, 30)) as server, an_engine(tmp_path / "j", server.url) as (engine, _):
        run = await engine.submit(request(chain_team()))
        with pytest.raises(runs.Torn):
            [piece async for piece in run.text()]
        result = await run.result()
    assert result.outcome.state == "Failed"
    assert server.calls() == {"step/only/1": 1}


@pytest.mark.parametrize("fault", ["reset_after", "cut", "garbage"])
async def test_text_that_did_not_go_out_is(tmp_path, fault):
    team = chain_team(("draft", "reader"), ("answer", "boss"))
    script = {"fate": lambda grant, number: fault if grant.role == "reader" and number == 1 else None, "completion": (20, 30)}
    async with model(**script) as server, an_engine(tmp_path / "j", server.url) as (engine, _):
        run = await engine.submit(request(team))
        assert (await run.result()).outcome.state == "Succeeded"
    assert server.calls() == {"step/draft/1": 2, "step/answer/1": 1}


async def test_a_server_that_asks_for_patience_gets_it_or_is_given_up(tmp_path):
    fate = {"fate": lambda grant, number: "rate_limited" if number == 1 else None}
    async with model(retry_after="0.2", **fate) as server, an_engine(tmp_path / "j", server.url) as (engine, _):
        run = await engine.submit(request(chain_team()))
        assert (await run.result()).outcome.state == "Succeeded"
        first, second = server.seen
        assert second.began - first.began >= 0.2
        server.script = replace(server.script, retry_after="3600")
        server.seen.clear()
        run = await engine.submit(request(chain_team()))
        result = await run.result()
    assert result.outcome.stop_reason == "RoleUnavailable"
    assert len(server.seen) == 1


@pytest.mark.parametrize(("wall_clock", "asked", "by"), [(0.3, None, "WallClock"), (300.0, 0.3, "ClientDeadline")])
async def test_the_deadline_ends_everything_and_frees_all_money(tmp_path, wall_clock, asked, by):
    metrics = TeamMetrics()
    team = map_reduce_team(of=roles(timeout=0.3), wall_clock=wall_clock)
    async with model(faults={"hang": 1.0}) as server, an_engine(tmp_path / "j", server.url, metrics=metrics) as (engine, journal):
        run = await engine.submit(request(team, document(100), deadline_seconds=asked))
        result = await run.result()
        rows = await journal.calls(run.id)
    assert (result.outcome.state, result.outcome.stop_reason) == ("TimedOut", by)
    assert reserved(metrics) == 0
    assert "reserved" not in {row.state for row in rows}
    assert all(seen.grant.expires for seen in server.seen)


@pytest.mark.parametrize("targets", [TARGETS, HOSTED], ids=["paid", "hosted"])
async def test_cancelling_frees_all_money_and_charges_what_may_have_been_used(tmp_path, targets):
    metrics = TeamMetrics()
    async with model(pause=0.02, latency=(0.0, 0.1)) as server, an_engine(tmp_path / "j", server.url, metrics=metrics) as (engine, journal):
        run = await engine.submit(request(map_reduce_team(of=roles(schema=False, max_tokens=400)), document(100), targets=targets))
        await until(lambda: len(server.seen) >= 64)
        assert reserved(metrics) > 0
        run.cancel()
        run.cancel("ClientGone")
        result = await run.result()
        rows = await journal.calls(run.id)
        await until(lambda: not server.at_once.total())
    assert (result.outcome.state, result.outcome.stop_reason) == ("Cancelled", "CancelRequested")
    assert reserved(metrics) == 0
    assert server.cost <= result.cost_micro_usd
    assumed = [row for row in rows if row.state == "assumed"]
    assert assumed
    assert all(row.charged == row.reserved for row in assumed) is (targets is TARGETS)
    assert "reserved" not in {row.state for row in rows}


async def test_a_target_that_fails_is_left_alone_and_tried_again(tmp_path):
    team = chain_team(of=roles(schema=False, max_retries=0))
    async with model(faults={"server_error": 1.0}) as server, an_engine(tmp_path / "j", server.url) as (engine, journal):
        now = [0.0]
        engine.workshop.circuits._now = lambda: now[0]
        for expected in (1, 2, 3, 4, 5, 5, 5):
            run = await engine.submit(request(team))
            result = await run.result()
            assert len(server.seen) == expected
        assert (result.outcome.state, result.cost_micro_usd, result.calls) == ("Failed", 0, 0)
        assert await journal.calls(run.id) == []
        assert engine.workshop.circuits.open() == [BOSS]
        now[0] += PAUSE
        for expected in (6, 6):
            await (await engine.submit(request(team))).result()
            assert len(server.seen) == expected
        now[0] += PAUSE
        server.script = Script()
        for expected in (7, 8):
            assert (await (await engine.submit(request(team))).result()).outcome.state == "Succeeded"
            assert len(server.seen) == expected
        assert engine.workshop.circuits.open() == []


async def test_a_provider_that_reports_more_than_it_may_is_paid_once_and_left_alone(tmp_path):
    metrics = TeamMetrics()
    team = map_reduce_team(of=roles(max_concurrent=1), cost_micro_usd=100_000)
    async with model(inflated=1.0, completion=(60, 60)) as server, an_engine(tmp_path / "j", server.url, metrics=metrics) as (engine, journal):
        run = await engine.submit(request(team, document(20)))
        result = await run.result()
        (row,) = await journal.calls(run.id)
        again = await engine.submit(request(team, document(20)))
        second = await again.result()
    assert (result.outcome.state, result.outcome.stop_reason) == ("BudgetExhausted", "ProviderOverran")
    assert len(server.seen) == 1
    assert row.charged == result.cost_micro_usd == server.cost > row.reserved
    assert row.flags == ("overran",)
    assert second.outcome.state == "Failed"
    assert second.cost_micro_usd == 0
    assert metrics.registry.get_sample_value("modelfleet_team_overrun_total", {"team": "legal/review"}) == 1


async def test_a_role_has_its_places_over_all_runs(tmp_path):
    team = map_reduce_team(of=roles(max_concurrent=3))
    async with model(latency=(0.005, 0.02)) as server, an_engine(tmp_path / "j", server.url) as (engine, _):
        started = [await engine.submit(request(team, document(40))) for _ in range(4)]
        states = {(await run.result()).outcome.state for run in started}
        assert states == {"Succeeded"}
        readers = [seen.grant.run for seen in server.seen if seen.grant.role == "reader"]
        assert len(readers) == 160
        assert server.most["reader"] <= 3
    # round robin: once all are there, none has many more turns than another
    together = max(readers.index(run.id) for run in started)
    turns = [readers[together : together + 24].count(run.id) for run in started]
    assert max(turns) - min(turns) <= 4


async def test_runs_beyond_the_places_wait_and_beyond_the_queue_are_refused(tmp_path):
    team = replace(chain_team(of=roles(schema=False, timeout=30.0)), max_runs=1, queue=2)
    async with (
        model(fate=lambda grant, number: "hang" if grant.run == first.id else None) as server,
        an_engine(tmp_path / "j", server.url) as (engine, journal),
    ):
        first = await engine.submit(request(team))
        second = await engine.submit(request(team))
        third = await engine.submit(request(team))
        with pytest.raises(runs.Busy) as refused:
            await engine.submit(request(team))
        assert refused.value.retry_after
        await until(lambda: len(server.seen) == 1)
        third.cancel()
        result = await third.result()
        assert (result.outcome.state, result.calls) == ("Cancelled", 0)
        first.cancel("TeamDeleted")
        assert (await first.result()).outcome.stop_reason == "TeamDeleted"
        assert (await second.result()).outcome.state == "Succeeded"
        assert server.calls(third.id) == {}
        assert (await journal.run(third.id)).state == "Cancelled"


async def test_calls_that_may_not_be_paid_for_lead_to_an_honest_end(tmp_path):
    async with model() as server, an_engine(tmp_path / "j", server.url) as (engine, _):
        run = await engine.submit(request(map_reduce_team(model_calls=8), document(30)))
        result = await run.result()
        mute = await engine.submit(request(map_reduce_team(model_calls=8, finalize=False), document(30)))
        silent = await mute.result()
    assert (result.outcome.state, result.outcome.stop_reason) == ("BudgetExhausted", "RunModelCalls")
    assert result.outcome.answer
    assert not result.outcome.complete
    assert server.calls(run.id).total() == 8
    assert server.calls(run.id)["final"] == 1
    assert (silent.outcome.state, silent.outcome.answer) == ("BudgetExhausted", None)
    assert server.calls(mute.id).total() <= 8


async def test_answers_that_do_not_fit_their_schema_are_tried_again_and_then_failures(tmp_path):
    script = {"answer": lambda body, grant: json.dumps({"relevant": True, "finding": "x"} if grant.call.endswith("#1") else {"relevant": "yes"})}
    async with model(**script) as server, an_engine(tmp_path / "j", server.url) as (engine, _):
        run = await engine.submit(request(map_reduce_team(concat=True), document(4)))
        result = await run.result()
        assert result.outcome.state == "Succeeded"
        assert set(server.calls().values()) == {2}
        assert result.cost_micro_usd == server.cost
        server.script = Script(misfit=1.0)
        run = await engine.submit(request(map_reduce_team(), document(4)))
        result = await run.result()
    assert (result.outcome.state, result.outcome.stop_reason) == ("Failed", "TooManyBranchesFailed")
    assert max(server.calls(run.id).values()) == 3


async def test_what_does_not_start_costs_nothing_and_leaves_nothing(tmp_path):
    team = map_reduce_team()
    nobody = {**TARGETS, "boss": RoleTarget()}
    async with model() as server, an_engine(tmp_path / "j", server.url) as (engine, journal):
        refused = {
            runs.BudgetBelowMinimum: request(map_reduce_team(cost_micro_usd=1000)),
            runs.PriceUnknown: request(team, prices={}),
            runs.RoleUnavailable: request(team, targets=nobody),
            runs.Suspended: request(replace(team, suspended=True)),
            runs.TooLong: request(team, document(1001)),
        }
        for kind, asked in refused.items():
            with pytest.raises(kind) as found:
                await engine.submit(asked)
            assert "legal/review" in found.value.message
        with pytest.raises(runs.BudgetBelowMinimum):
            await engine.submit(request(team, max_cost_micro_usd=100))
        with pytest.raises(runs.InvalidTask):
            await engine.submit(request(team, Task("\ud800", ("a",))))
        assert await journal.orphans() == []
        run = await engine.submit(request(team, max_cost_micro_usd=900_000))
        result = await run.result()
        assert result.budget_left_micro_usd == 900_000 - result.cost_micro_usd
        await engine.drain(0)
        with pytest.raises(runs.Draining):
            await engine.submit(request(team))
    assert server.calls().total() == result.calls


@pytest.mark.parametrize("full", [True, False])
async def test_a_run_that_is_let_go_is_taken_up_by_the_next_process(tmp_path, full):
    team = replace(map_reduce_team(of=roles(timeout=30.0)), journal_full=full)
    async with model(fate=lambda grant, number: "hang" if grant.call.startswith(("map/0/3", "map/0/7")) and number == 1 else None) as server:
        async with an_engine(tmp_path / "j", server.url) as (engine, journal):
            run = await engine.submit(request(team, document(10)))
            await journal.remember_key("key", "ada", "digest", run.id, 0.0)
            await until(lambda: len(server.seen) == 10 and sum(seen.ended == "answered" for seen in server.seen) == 8)
            while (written := len(await journal.events(run.id))) < 8:
                await asyncio.sleep(0.01)
            await engine.drain(0)
            assert (await run.result()).outcome.stop_reason == "RuntimeLost"
        metrics = TeamMetrics()
        async with an_engine(tmp_path / "j", server.url, metrics=metrics) as (engine, journal):
            if full:
                await until(lambda: engine.run(run.id) is not None)
                result = await engine.run(run.id).result()
                assert result.outcome.state == "Succeeded"
                assert metrics.registry.get_sample_value("modelfleet_team_resumed_total", {"team": "legal/review"}) == 1
                assert result.cost_micro_usd == sum(row.charged for row in await journal.calls(run.id)) >= server.cost
            else:
                while (await journal.run(run.id)).state == "Running":
                    await asyncio.sleep(0.01)
            row = await journal.run(run.id)
    assert written == 8
    assert (row.state, row.stop_reason) == (("Succeeded", "Completed") if full else ("Failed", "RuntimeLost"))
    repeated = {call for call, count in server.calls().items() if count > 1}
    assert repeated == ({"map/0/3", "map/0/7"} if full else set())


@pytest.mark.parametrize("broken", ["append", "reserve_call"])
async def test_nothing_more_is_spent_once_nothing_can_be_written(tmp_path, monkeypatch, broken):
    async with model() as server, an_engine(tmp_path / "j", server.url) as (engine, journal):
        whole, left = getattr(journal, broken), [5]

        async def breaks(*args, **named):
            left[0] -= 1
            if left[0] < 0:
                raise JournalError("JournalReadOnly", "the disk is full")
            await whole(*args, **named)

        monkeypatch.setattr(journal, broken, breaks)
        run = await engine.submit(request(map_reduce_team(of=roles(max_concurrent=2)), document(50)))
        result = await run.result()
        seen = len(server.seen)
        await asyncio.sleep(0.05)
    assert (result.outcome.state, result.outcome.stop_reason) == ("Failed", "RuntimeLost")
    assert len(server.seen) == seen < 20


@pytest.mark.parametrize("drained", [False, True])
async def test_a_run_that_ended_while_nothing_could_be_written_is_not_paid_for_again(tmp_path, monkeypatch, drained):
    async with model(latency=(0.0, 0.01)) as server:
        async with an_engine(tmp_path / "j", server.url) as (engine, journal):
            left = [40]

            def breaks(method):
                async def call(*args, **named):
                    left[0] -= 1
                    if left[0] < 0:
                        raise JournalError("JournalReadOnly", "the disk is full")
                    return await method(*args, **named)

                return call

            for name in ("append", "reserve_call", "settle_call", "finish"):
                monkeypatch.setattr(journal, name, breaks(getattr(journal, name)))
            run = await engine.submit(request(map_reduce_team(of=roles(max_concurrent=4)), document(50)))
            await journal.remember_key("key", "ada", "digest", run.id, 0.0)
            result = await run.result()
            await until(lambda: engine.run(run.id) is None)
            await engine.pay_debts()
            assert (await journal.run(run.id)).state == "Running"
            left[0] = 10**6
            if not drained:
                await engine.pay_debts()
                assert (await journal.run(run.id)).stop_reason == "RuntimeLost"
        asked = len(server.seen)
        async with an_engine(tmp_path / "j", server.url) as (engine, journal):
            row, rows = await journal.run(run.id), await journal.calls(run.id)
            assert engine.run(run.id) is None
    assert (row.state, row.stop_reason, read_result(row.result)) == ("Failed", "RuntimeLost", result)
    assert "reserved" not in {call.state for call in rows}
    assert sum(call.charged for call in rows) == result.cost_micro_usd >= server.cost
    assert len(server.seen) == asked


async def test_a_run_whose_client_cannot_come_back_is_not_taken_up(tmp_path):
    async with model(faults={"hang": 1.0}) as server:
        async with an_engine(tmp_path / "j", server.url) as (engine, journal):
            run = await engine.submit(request(map_reduce_team(), document(5)))
            await until(lambda: len(server.seen) == 5)
        async with an_engine(tmp_path / "j", server.url) as (engine, journal):
            while (await journal.run(run.id)).state == "Running":
                await asyncio.sleep(0.005)
            row, rows = await journal.run(run.id), await journal.calls(run.id)
    assert (row.state, row.stop_reason) == ("Cancelled", "ClientGone")
    assert len(server.seen) == 5
    assert {call.state for call in rows} == {"assumed"}
    assert read_result(row.result).cost_micro_usd == sum(call.charged for call in rows)


async def test_a_run_goes_on_after_events_that_were_not_all_taken(tmp_path):
    async with model() as server:
        async with an_engine(tmp_path / "j", server.url) as (engine, journal):
            run = await engine.submit(request(chain_team(("one", "reader"), ("two", "boss"))))
            await run.result()
            await journal.remember_key("key", "ada", "digest", run.id, 0.0)
        with contextlib.closing(sqlite3.connect(tmp_path / "j", isolation_level=None)) as database:
            database.execute("UPDATE run SET finished = NULL, state = 'Running', result = x''")
            database.execute("DELETE FROM event WHERE seq = 0")
        async with an_engine(tmp_path / "j", server.url) as (engine, journal):
            while (await journal.run(run.id)).state == "Running":
                await asyncio.sleep(0.005)
            row = await journal.run(run.id)
    assert (row.state, row.stop_reason) == ("Succeeded", "Completed")


async def test_runs_of_teams_that_were_deleted_meanwhile_end(tmp_path):
    async with model(faults={"hang": 1.0}) as server, an_engine(tmp_path / "j", server.url) as (engine, _):
        run = await engine.submit(request(chain_team()))
        await until(lambda: len(server.seen) == 1)
        engine.keep_teams({"legal/review"})
        await asyncio.sleep(0.02)
        assert engine.run(run.id) is run
        engine.keep_teams({"legal/other"})
        assert (await run.result()).outcome.stop_reason == "TeamDeleted"


async def test_a_run_that_is_accepted_while_the_process_leaves_does_not_begin(tmp_path, monkeypatch):
    async with model() as server, an_engine(tmp_path / "j", server.url) as (engine, journal):
        begin, asked, go = journal.begin, asyncio.Event(), asyncio.Event()

        async def slowly(row):
            await begin(row)
            asked.set()
            await go.wait()

        monkeypatch.setattr(journal, "begin", slowly)
        coming = asyncio.create_task(engine.submit(request(chain_team(), run_id="run-late")))
        await asked.wait()
        await engine.drain(0)
        go.set()
        with pytest.raises(runs.Draining):
            await coming
        assert (await journal.run("run-late")).state == "Failed"
    assert not server.seen


async def test_a_journal_that_gives_nothing_at_first_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_JOURNAL_AGAIN", 0.01)
    async with model(faults={"hang": 1.0}) as server:
        async with an_engine(tmp_path / "j", server.url) as (engine, journal):
            run = await engine.submit(request(chain_team()))
            await until(lambda: len(server.seen) == 1)
        whole, left = SqliteJournal.events, [2]

        async def fails_first(journal, run_id):
            left[0] -= 1
            if left[0] >= 0:
                raise JournalError("JournalReadOnly", "no")
            return await whole(journal, run_id)

        monkeypatch.setattr(SqliteJournal, "events", fails_first)
        async with an_engine(tmp_path / "j", server.url) as (engine, journal):
            while (await journal.run(run.id)).state == "Running":
                await asyncio.sleep(0.005)


async def test_no_error_about_a_row_repeats_what_is_in_it():
    for read in (read_pinned, read_plan, read_result):
        for raw in (b'{"task": {"question": "the secret"}, "outcome": "the secret", "key": ["the secret"]}', b'"the secret', b'"the secret"'):
            with pytest.raises(ValueError, match="this version cannot read") as told:
                read(raw)
            assert "secret" not in "".join(traceback.format_exception(told.value))


async def test_a_journal_whose_plan_is_another_teams_is_not_followed(tmp_path):
    async with model(faults={"hang": 1.0}) as server:
        async with an_engine(tmp_path / "j", server.url) as (engine, journal):
            run = await engine.submit(request(chain_team()))
            await journal.remember_key("key", "ada", "digest", run.id, 0.0)
            await until(lambda: len(server.seen) == 1)
        with contextlib.closing(sqlite3.connect(tmp_path / "j", isolation_level=None)) as database:
            database.execute("UPDATE run SET team = 'shop/review'")
        async with an_engine(tmp_path / "j", server.url) as (engine, journal):
            while (await journal.run(run.id)).state == "Running":
                await asyncio.sleep(0.005)
            row = await journal.run(run.id)
    assert (row.state, row.stop_reason, len(server.seen)) == ("Failed", "Internal", 1)


async def test_a_long_typed_answer_is_looked_through_beside_the_loop(tmp_path):
    wide = json.dumps({"relevant": True, "finding": "", "more": [1] * 20_000})
    async with model(answer=lambda body, grant: wide if grant.role == "reader" else "answer") as server, an_engine(tmp_path / "j", server.url) as (engine, _):
        run = await engine.submit(request(map_reduce_team(of=roles(max_tokens=60_000), cost_micro_usd=100_000_000), document(2)))
        result = await run.result()
    assert result.outcome.state == "Succeeded"
    assert len(server.calls()) == 3
