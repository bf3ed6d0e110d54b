"""SIGKILL at random points: what was promised is there, whole, and nothing that is there is half a row.

A kill loses no page that was written. Power is another matter, for which every commit is synced; test_sqlite.py looks at the setting.
"""

import random
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from tests.teamserver.journal.writes_until_killed import BRANCHES, payload_of

from modelfleet.teamserver.journal.sqlite import SqliteJournal

SCRIPT = Path(__file__).with_name("writes_until_killed.py")
SEEDS = range(20)


def killed_after(journal, run, promises, *, by_itself):
    """Start a writer that is killed after that many promises, right then by itself or somewhat later from here; returns all that it managed to say."""
    writer = subprocess.Popen([sys.executable, SCRIPT, journal, run, str(promises if by_itself else 0)], stdout=subprocess.PIPE)
    try:
        said = [writer.stdout.readline() for _ in range(promises)]
    finally:
        if not by_itself:
            writer.send_signal(signal.SIGKILL)
    said += writer.stdout.readlines()
    assert writer.wait() == -signal.SIGKILL
    kept = defaultdict(set)
    for line in said:
        if line.endswith(b"\n"):
            kind, what = line.decode().split()
            kept[kind].add(what)
    return kept


async def check(journal, run, kept):
    events = await journal.events(run)
    assert all(event.payload == payload_of(run, event.seq) for event in events)
    assert {int(seq) for seq in kept["event"]} <= {event.seq for event in events}
    for number in range(BRANCHES):  # rows of one writer are there in the order they were asked for
        turns = [event.seq // BRANCHES for event in events if event.seq % BRANCHES == number]
        assert turns == list(range(len(turns)))
    calls = {call.call_id: call for call in await journal.calls(run)}
    assert kept["reserved"] <= calls.keys()
    assert kept["settled"] <= {call.call_id for call in calls.values() if call.state == "settled"}
    for call in calls.values():
        turn = int(call.call_id.rsplit("/", 1)[1])
        assert (call.state, call.reserved, call.charged) in {("reserved", 100 + turn, 0), ("settled", 100 + turn, turn)}
    return len(events)


async def test_twenty_kills_lose_nothing_that_was_promised(tmp_path):
    path = tmp_path / "journal"
    history = {}
    rows = 0
    for seed in SEEDS:
        run = f"run-{seed}"
        history[run] = killed_after(path, run, random.Random(seed).choice([1, 2, 5, 20, 100, 200]) + seed, by_itself=seed % 2 == 0)
        journal = await SqliteJournal.open(path)
        try:
            found = await journal.run(run)
            assert found.request == payload_of(run, -1)
            rows += await check(journal, run, history[run])
            assert [orphan.run_id for orphan in await journal.orphans()] == [run]
            await journal.finish(run, "Failed", "RuntimeLost", b"", 2.0)
        finally:
            await journal.close()
    journal = await SqliteJournal.open(path)
    try:
        assert rows == sum([await check(journal, run, kept) for run, kept in history.items()])
    finally:
        await journal.close()
    assert rows > 100  # the writers got somewhere
