"""What the journal promises while nobody is killed and the disk has room."""

import asyncio
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from modelfleet.teamserver.journal.protocol import (
    KEY_LIFETIME,
    MAX_PAYLOAD,
    MAX_REQUEST,
    MAX_RESULT,
    CallRow,
    EventRow,
    Journal,
    JournalError,
    JournalMisuse,
    PayloadTooLarge,
    RememberedKey,
    RunRow,
)
from modelfleet.teamserver.journal.sqlite import SqliteJournal

RUN = RunRow("run-1", "legal/review", "rev-1", "alice", started=100.0, deadline=160.0, ttl=60.0, request=b"question")
CALL = CallRow("run-1", "map/0", 0, "reader", "pool:legal/small", 40, 900, 101.0)
END = {"charged": 7, "prompt_tokens": 30, "completion_tokens": 5}


@pytest.fixture
async def journal(tmp_path):
    opened: Journal = await SqliteJournal.open(tmp_path / "journal", window=0)
    yield opened
    await opened.close()


@pytest.fixture
async def running(journal):
    await journal.save_plan("rev-1", b"plan", 99.0)
    await journal.begin(RUN)
    return journal


async def reopen(journal, path):
    await journal.close()
    return await SqliteJournal.open(path / "journal", window=0)


async def test_a_run_is_read_back_as_it_was_written(running, tmp_path):
    await running.append("run-1", 1, "CallSucceeded", b"\x00\xff two")
    await running.append("run-1", 0, "CallFailed", b"")
    await running.reserve_call(CALL)
    await running.reserve_call(replace(CALL, attempt=1))
    await running.settle_call("run-1", "map/0", 0, "settled", **END, flags=("cached", "cut"), pool="legal/small", flavor="cpu")
    again = await reopen(running, tmp_path)
    try:
        assert await again.run("run-1") == RUN
        assert await again.orphans() == [RUN]
        assert await again.plan("rev-1") == b"plan"
        assert await again.events("run-1") == [EventRow(0, "CallFailed", b""), EventRow(1, "CallSucceeded", b"\x00\xff two")]
        ended = replace(CALL, state="settled", charged=7, prompt_tokens=30, completion_tokens=5, pool="legal/small", flavor="cpu", flags=("cached", "cut"))
        assert await again.calls("run-1") == [ended, replace(CALL, attempt=1)]
        await again.finish("run-1", "Succeeded", "Completed", b"answer", 130.0)
        assert await again.run("run-1") == replace(RUN, state="Succeeded", stop_reason="Completed", finished=130.0, result=b"answer")
        assert await again.orphans() == []
    finally:
        await again.close()


async def test_unknown_things_are_none_and_empty(journal):
    assert (await journal.run("no"), await journal.plan("no"), await journal.events("no"), await journal.calls("no")) == (None, None, [], [])


async def test_a_run_without_content_stores_none(journal):
    await journal.save_plan("rev-1", b"plan", 99.0)
    await journal.begin(replace(RUN, full=False))
    await journal.append("run-1", 0, "CallSucceeded", b"a secret answer")
    await journal.finish("run-1", "Succeeded", "Completed", b"a secret answer", 130.0)
    run = await journal.run("run-1")
    assert (run.full, run.request, run.result) == (False, b"", b"")
    assert await journal.events("run-1") == [EventRow(0, "CallSucceeded", b"")]


async def test_content_that_is_not_stored_is_not_in_the_file_either(journal, tmp_path):
    await journal.save_plan("rev-1", b"plan", 99.0)
    await journal.begin(replace(RUN, full=False, request=b"canary-request"))
    await journal.append("run-1", 0, "CallSucceeded", b"canary-event")
    await journal.finish("run-1", "Succeeded", "Completed", b"canary-result", 130.0)
    await journal.close()
    assert b"canary" not in (tmp_path / "journal").read_bytes()


# --- B2, B3: no call without a reservation, and one end ---


async def test_the_first_end_of_a_call_stands(running):
    await running.reserve_call(CALL)
    await running.settle_call("run-1", "map/0", 0, "assumed", **END)
    await running.settle_call("run-1", "map/0", 0, "settled", charged=99, prompt_tokens=1, completion_tokens=1)
    (call,) = await running.calls("run-1")
    assert (call.state, call.charged) == ("assumed", 7)


async def test_the_first_end_of_a_run_stands(running):
    await running.finish("run-1", "Cancelled", "ClientGone", b"first", 120.0)
    await running.finish("run-1", "Succeeded", "Completed", b"second", 121.0)
    run = await running.run("run-1")
    assert (run.state, run.finished, run.result) == ("Cancelled", 120.0, b"first")


@pytest.mark.parametrize(
    "ask",
    [
        lambda journal: journal.begin(RUN),
        lambda journal: journal.begin(replace(RUN, run_id="run-2", revision="never saved")),
        lambda journal: journal.append("no run", 0, "CallFailed", b""),
        lambda journal: journal.append("run-1", 0, "again", b""),
        lambda journal: journal.reserve_call(CALL),
        lambda journal: journal.reserve_call(replace(CALL, run_id="no run")),
        lambda journal: journal.reserve_call(replace(CALL, attempt=1, reserved=-1)),
        lambda journal: journal.settle_call("run-1", "map/9", 0, "settled", **END),
        lambda journal: journal.settle_call("run-1", "map/0", 0, "lost", **END),
        lambda journal: journal.settle_call("run-1", "map/0", 0, "settled", charged=-1, prompt_tokens=0, completion_tokens=0),
        lambda journal: journal.finish("no run", "Succeeded", "Completed", b"", 1.0),
    ],
)
async def test_rows_that_contradict_are_refused_alone(running, ask):
    await running.append("run-1", 0, "CallFailed", b"")
    await running.reserve_call(CALL)
    before = (await running.run("run-1"), await running.events("run-1"), await running.calls("run-1"))
    answers = await asyncio.gather(
        running.append("run-1", 8, "beside it", b""), ask(running), running.append("run-1", 9, "beside it", b""), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [type(None), JournalMisuse, type(None)]
    events = [event for event in await running.events("run-1") if event.kind != "beside it"]
    assert (await running.run("run-1"), events, await running.calls("run-1")) == before
    assert running.healthy


async def test_a_run_that_ended_reserves_nothing(running):
    await running.finish("run-1", "Cancelled", "ClientGone", b"", 120.0)
    with pytest.raises(JournalMisuse, match="run run-1 is not running"):
        await running.reserve_call(CALL)


async def test_a_number_that_no_row_can_hold_fails_for_its_caller_only(running):
    with pytest.raises(OverflowError):
        await running.reserve_call(replace(CALL, reserved=2**63))
    await running.reserve_call(CALL)
    assert running.healthy


async def test_a_report_that_no_row_can_hold_is_written_as_the_most(running):
    await running.reserve_call(CALL)
    await running.settle_call("run-1", "map/0", 0, "settled", charged=10**30, prompt_tokens=2**63, completion_tokens=5, flags=("overran",))
    (call,) = await running.calls("run-1")
    assert (call.state, call.charged, call.prompt_tokens, call.completion_tokens) == ("settled", 2**63 - 1, 2**63 - 1, 5)


# --- sizes ---


async def test_payloads_have_a_largest_size(running):
    await running.append("run-1", 0, "CallSucceeded", b"x" * MAX_PAYLOAD)
    with pytest.raises(PayloadTooLarge, match="event CallSucceeded has 262145 bytes; a journal keeps at most 262144"):
        await running.append("run-1", 1, "CallSucceeded", b"x" * (MAX_PAYLOAD + 1))
    with pytest.raises(PayloadTooLarge, match="the request"):
        await running.begin(replace(RUN, run_id="run-2", request=b"x" * (MAX_REQUEST + 1)))
    with pytest.raises(PayloadTooLarge, match="the result"):
        await running.finish("run-1", "Succeeded", "Completed", b"x" * (MAX_RESULT + 1), 120.0)
    assert len(await running.events("run-1")) == 1
    assert running.healthy


# --- order, company, cancellation ---


async def test_a_cancelled_await_is_written_all_the_same_and_in_order(running):
    asking = asyncio.create_task(running.reserve_call(CALL))
    await asyncio.sleep(0)
    asking.cancel()
    await running.settle_call("run-1", "map/0", 0, "released", charged=0, prompt_tokens=0, completion_tokens=0)
    assert asking.cancelled()
    assert [call.state for call in await running.calls("run-1")] == ["released"]


async def test_what_arrives_together_is_committed_together(tmp_path):
    journal = await SqliteJournal.open(tmp_path / "journal", window=0, most=64)
    try:
        await asyncio.gather(journal.save_plan("rev-1", b"plan", 99.0), journal.begin(RUN))
        commits = []
        journal._writer._window = 60  # what fills a commit need not wait for it
        commit = journal._writer._commit
        journal._writer._commit = lambda connection, batch: commits.append(len(batch)) or commit(connection, batch)
        await asyncio.gather(*[journal.append("run-1", number, "CallFailed", b"") for number in range(128)])
        assert commits == [64, 64]
        assert [event.seq for event in await journal.events("run-1")] == list(range(128))
    finally:
        await journal.close()


async def test_a_lone_write_waits_for_company(running):
    commits = []
    writer = running._writer
    commit = writer._commit
    writer._commit = lambda connection, batch: commits.append(len(batch)) or commit(connection, batch)
    writer._window, writer._most = 60, 2
    first = asyncio.create_task(running.append("run-1", 0, "CallFailed", b""))
    await asyncio.sleep(0)
    while not writer._jobs.empty():  # until the writer holds it
        await asyncio.sleep(0.001)
    await running.append("run-1", 1, "CallFailed", b"")
    await first
    assert commits == [2]


async def test_work_that_fails_halfway_leaves_nothing(running):
    def half(connection):
        connection.execute("UPDATE run SET state = 'half'")
        raise ValueError("the other half")

    with pytest.raises(ValueError, match="the other half"):
        await running._writer.ask(half)
    assert (await running.run("run-1")).state == "Running"


async def test_closing_writes_what_was_asked_for(running, tmp_path):
    asked = [asyncio.create_task(running.append("run-1", number, "CallFailed", b"")) for number in range(100)]
    await asyncio.sleep(0)
    await running.close()
    await asyncio.gather(*asked)
    await running.close()
    with pytest.raises(JournalError, match="is closed"):
        await running.append("run-1", 100, "CallFailed", b"")
    again = await SqliteJournal.open(tmp_path / "journal")
    assert len(await again.events("run-1")) == 100
    await again.close()


# --- one owner ---


async def test_a_second_opener_is_refused_with_the_cure(running, tmp_path):
    with pytest.raises(JournalError, match=r"journal is in use by another process.*one replica, strategy Recreate") as refused:
        await SqliteJournal.open(tmp_path / "journal")
    assert refused.value.reason == "JournalLocked"
    await running.append("run-1", 0, "CallFailed", b"")


async def test_another_process_can_neither_open_nor_read_it(running, tmp_path):
    code = f"import sqlite3; sqlite3.connect({str(tmp_path / 'journal')!r}, timeout=0).execute('SELECT * FROM run').fetchall()"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "database is locked" in other.stderr
    await running.append("run-1", 0, "CallFailed", b"")


async def test_the_file_is_for_its_owner_only_and_every_commit_is_synced(running, tmp_path):
    assert [oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()] == ["0o600"] * 2
    ask = running._writer.ask
    pragmas = [
        (await ask(lambda connection, name=name: connection.execute(f"PRAGMA {name}").fetchone()))[0]
        for name in ("journal_mode", "synchronous", "locking_mode")
    ]
    assert pragmas == ["wal", 2, "exclusive"]


async def test_files_that_are_no_journal_are_refused(tmp_path):
    with pytest.raises(JournalError, match="cannot be opened") as refused:
        await SqliteJournal.open(tmp_path / "absent" / "journal")
    assert refused.value.reason == "JournalInvalid"
    (tmp_path / "prose").write_text("It was a dark and stormy night; the rain fell in torrents, except at occasional intervals." * 20)
    with pytest.raises(JournalError, match="not a database"):
        await SqliteJournal.open(tmp_path / "prose")
    with sqlite3.connect(tmp_path / "newer") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(JournalError, match="version 99, and this modelfleet knows 1"):
        await SqliteJournal.open(tmp_path / "newer")


# --- keys ---


async def test_a_key_belongs_to_its_first_run_for_a_day(running):
    assert await running.remember_key("k", "alice", "digest", "run-1", 100.0) is None
    assert await running.remember_key("k", "alice", "other digest", "run-2", 100.0 + KEY_LIFETIME - 1) == RememberedKey("run-1", "digest")
    assert await running.remember_key("k", "bob", "digest", "run-3", 101.0) is None
    assert await running.remember_key("k", "alice", "digest", "run-4", 100.0 + KEY_LIFETIME) is None
    assert await running.remember_key("k", "alice", "digest", "run-5", 101.0 + KEY_LIFETIME) == RememberedKey("run-4", "digest")


async def test_a_key_can_be_given_back_by_its_run_only(running):
    await running.remember_key("k", "alice", "digest", "run-1", 100.0)
    await running.forget_key("k", "alice", "run-2")
    assert await running.remember_key("k", "alice", "digest", "run-2", 101.0) == RememberedKey("run-1", "digest")
    await running.forget_key("k", "alice", "run-1")
    assert await running.remember_key("k", "alice", "digest", "run-2", 101.0) is None


async def test_keys_of_runs_that_were_never_begun_do_not_outlive_the_process(running, tmp_path):
    await running.remember_key("begun", "alice", "digest", "run-1", 100.0)
    await running.remember_key("not begun", "alice", "digest", "run-2", 100.0)
    again = await reopen(running, tmp_path)
    try:
        assert await again.remember_key("begun", "alice", "digest", "run-3", 101.0) == RememberedKey("run-1", "digest")
        assert await again.remember_key("not begun", "alice", "digest", "run-3", 101.0) is None
    finally:
        await again.close()


# --- prune ---


async def test_prune_forgets_ended_runs_after_their_ttl_with_all_of_theirs(running):
    await running.append("run-1", 0, "CallFailed", b"")
    await running.reserve_call(CALL)
    await running.remember_key("k", "alice", "digest", "run-1", 100.0)
    assert await running.prune(10_000.0) == 0  # it has not ended
    await running.finish("run-1", "Succeeded", "Completed", b"", 130.0)
    assert await running.prune(189.9) == 0
    assert await running.plan("rev-1") == b"plan"
    assert await running.prune(190.0) == 1
    assert (await running.run("run-1"), await running.events("run-1"), await running.calls("run-1")) == (None, [], [])
    assert await running.remember_key("k", "alice", "digest", "run-2", 191.0) is None


async def test_prune_keeps_plans_for_a_day_and_while_runs_need_them(running):
    await running.save_plan("rev-2", b"other", 99.0)
    await running.save_plan("rev-2", b"other", 50.0)  # an older clock takes nothing back
    day = 24 * 3600
    await running.prune(98.0 + day)
    assert await running.plan("rev-2") == b"other"
    await running.prune(99.0 + day)
    assert (await running.plan("rev-1"), await running.plan("rev-2")) == (b"plan", None)


async def test_prune_forgets_many_runs_in_several_commits(running):
    names = [f"many-{number}" for number in range(120)]
    await asyncio.gather(*[running.begin(replace(RUN, run_id=name)) for name in names])
    await asyncio.gather(*[running.finish(name, "Succeeded", "Completed", b"", 130.0) for name in names])
    assert await running.prune(1000.0) == 120
    assert [run.run_id for run in await running.orphans()] == ["run-1"]
