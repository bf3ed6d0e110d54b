"""A process that writes to a journal and says on stdout what it was promised, until it is killed: from outside, or by itself right after a promise.

Arguments: the journal, the run, and after how many promises it kills itself (0: never). Run by test_crash.py.
"""

import asyncio
import hashlib
import itertools
import os
import random
import signal
import sys
from pathlib import Path

from modelfleet.teamserver.journal.protocol import CallRow, RunRow
from modelfleet.teamserver.journal.sqlite import SqliteJournal

BRANCHES = 8


def payload_of(run, seq):
    """Up to about two pages of bytes that nobody could guess right by half."""
    draw = random.Random(f"{run}/{seq}")
    return hashlib.sha256(f"{run}/{seq}".encode()).digest() * draw.randrange(1, 250)


COUNT = itertools.count(1)


def promised(kind, what):
    os.write(1, f"{kind} {what}\n".encode())
    if next(COUNT) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)


async def branch(journal, run, number):
    for turn in range(10_000):
        call = f"map/{number}/{turn}"
        await journal.reserve_call(CallRow(run, call, 0, "reader", "pool:ns/small", 100 + turn, 900, 1.0))
        promised("reserved", call)
        seq = turn * BRANCHES + number
        await journal.append(run, seq, "CallSucceeded", payload_of(run, seq))
        promised("event", seq)
        await journal.settle_call(run, call, 0, "settled", charged=turn, prompt_tokens=turn, completion_tokens=number)
        promised("settled", call)


async def main(path, run):
    journal = await SqliteJournal.open(Path(path), window=0.001)
    await journal.save_plan("rev", b"plan", 1.0)
    await journal.begin(RunRow(run, "ns/team", "rev", "alice", 1.0, 100.0, 60.0, request=payload_of(run, -1)))
    promised("begun", run)
    await asyncio.gather(*[branch(journal, run, number) for number in range(BRANCHES)])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
