"""Kill -9 anywhere, start again: the right end, no finished call repeated, every charge counted. The scripted server outlives the engine and is the witness."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sqlite3
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.support.scripted_engine import LINES, RUN, team
from tests.support.scripted_model import Script, ScriptedModel
from tests.support.scripted_team import BOOK, SERVED

from modelfleet.teamserver.journal.sqlite import SqliteJournal
from modelfleet.teamserver.records import read_event, read_result

pytestmark = pytest.mark.real
CHECKOUT = Path(__file__).resolve().parents[2]


def answer(body, grant):
    """Depends on the call alone, so that a repeated call answers the same."""
    call = grant.call.rpartition("#")[0]
    return f'{{"relevant": true, "finding": "f {call}"}}' if grant.role == "reader" else f"the answer of {call}"


async def start(path: Path, url: str) -> asyncio.subprocess.Process:
    arguments = [sys.executable, "-m", "tests.support.scripted_engine", str(path), url]
    return await asyncio.create_subprocess_exec(*arguments, cwd=CHECKOUT, env={"PYTHONPATH": f"{CHECKOUT}/operator:{CHECKOUT}"}, stdout=asyncio.subprocess.PIPE)


async def left_behind(path: Path):
    """Calls that had an event, and attempts that were reserved without an end, as the journal tells after a kill."""
    journal = await SqliteJournal.open(path)
    events = [read_event(row.kind, row.payload) for row in await journal.events(RUN)]
    rows = await journal.calls(RUN)
    await journal.close()
    return {event.call for event in events if hasattr(event, "call")}, rows


@pytest.mark.parametrize("seed", range(3))
async def test_a_killed_engine_goes_on_where_it_was(tmp_path, seed):
    rng = random.Random(seed)
    path = tmp_path / "j"
    script = Script(seed=seed, faults={"server_error": 0.05, "overloaded": 0.05}, latency=(0.0, 0.05), answer=answer)
    async with ScriptedModel(script, SERVED, BOOK) as server:
        frozen: Counter[str] = Counter()
        in_doubt = 0
        for kill in range(2):
            process = await start(path, server.url)
            # the last kill comes late, so that the reduce is hit as well
            goal = len(server.seen) + rng.randint(2, 40) if kill < 1 else 10**6
            late = rng.randint(LINES - 4, LINES + 2)
            while len(server.seen) < goal and len(server.calls()) < late and process.returncode is None:
                await asyncio.sleep(0.001)
            await asyncio.sleep(rng.random() * 0.03)
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.communicate()
            while server.at_once.total():
                await asyncio.sleep(0.005)
            finished, rows = await left_behind(path)
            # calls that had ended are asked as often as before, for ever
            assert {call: server.calls()[call] for call in frozen} == frozen
            frozen = Counter({call: server.calls()[call] for call in finished})
            in_doubt += sum(row.state == "reserved" for row in rows) + len({row.call_id for row in rows if row.state == "settled"} - finished)
        process = await start(path, server.url)
        out, _ = await process.communicate()
        result = read_result(out)
        assert {call: server.calls()[call] for call in frozen} == frozen
        _, rows = await left_behind(path)
    assert process.returncode == 0
    assert (result.outcome.state, result.outcome.stop_reason) == ("Succeeded", "Completed")
    assert result.outcome.answer.startswith("the answer of reduce/")
    assert len([call for call in server.calls() if call.startswith("map/")]) == LINES
    assert "reserved" not in {row.state for row in rows}
    assert server.cost <= sum(row.charged for row in rows) == result.cost_micro_usd <= team().budget.cost_micro_usd
    # what was sent beyond one attempt each was retried by the role, or was in doubt at a kill
    faults = sum(seen.ended in ("server_error", "overloaded") for seen in server.seen)
    assert len(server.seen) - len(server.calls()) <= faults + in_doubt
    assert not server.refused_grants


async def test_a_run_past_its_deadline_ends_without_another_call(tmp_path):
    path = tmp_path / "j"
    async with ScriptedModel(Script(faults={"hang": 1.0}), SERVED, BOOK) as server:
        process = await start(path, server.url)
        while len(server.seen) < 12:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        await process.communicate()
        asked = len(server.seen)
        # the clock goes on while nobody runs
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("UPDATE run SET deadline = started")
        process = await start(path, server.url)
        out, _ = await process.communicate()
    result = read_result(out)
    assert (result.outcome.state, result.outcome.stop_reason) == ("TimedOut", "WallClock")
    assert len(server.seen) == asked
    assert result.assumed
    assert result.cost_micro_usd >= server.cost
