"""What a role call costs the team runtime, and how fast five hundred calls in flight are given up: ``python -m e2e.bench.teams [rounds]``.

One engine with its journal in this process, the scripted model server in another, so that the CPU counted is the engine's alone: all of its threads. Answers
come in 36 chunks, each in a write of its own (as tokens do) and then in three writes. Least and median over the rounds are printed; nothing is judged here.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from tests.support.scripted_model import Script, ScriptedModel
from tests.support.scripted_team import BOOK, SERVED, an_engine, document, map_reduce_team, request, roles

from modelfleet.teamserver.engine import Engine

BRANCHES = 400
IN_FLIGHT = 500
CHUNKS = 36


def main() -> None:
    """Measure, and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    one_by_one, together, cancel = asyncio.run(_all(rounds))
    _say(f"CPU per role call, {CHUNKS} chunks one by one", one_by_one, "ms")
    _say(f"CPU per role call, {CHUNKS} chunks in three writes", together, "ms")
    _say(f"cancel of {IN_FLIGHT} calls in flight", cancel, "ms")


async def _all(rounds: int) -> tuple[list[float], list[float], list[float]]:
    slow = Script(completion=(CHUNKS, CHUNKS), pause=0.002)
    fast = Script(completion=(CHUNKS, CHUNKS))
    hanging = Script(fate=lambda _grant, _number: "hang")
    return await _calls(slow, rounds), await _calls(fast, rounds), await _cancels(hanging, rounds)


async def _calls(script: Script, rounds: int) -> list[float]:
    """Milliseconds of CPU per call, of each round; the first round warms up and does not count."""
    team = map_reduce_team(concat=True, of=roles(schema=False))
    spent = []
    async with _engine(script) as engine:
        for _ in range(rounds + 1):
            before = time.process_time()
            result = await (await engine.submit(request(team, document(BRANCHES)))).result()
            spent.append((time.process_time() - before) / result.calls * 1000)
            if result.outcome.state != "Succeeded" or result.calls != BRANCHES:
                raise SystemExit(f"the run was to make {BRANCHES} calls: {result}")
    return spent[1:]


async def _cancels(script: Script, rounds: int) -> list[float]:
    """Milliseconds from a cancel of calls that are all out to the run's end, every reservation free and every charge written."""
    team = map_reduce_team(concat=True, of=roles(schema=False, max_concurrent=IN_FLIGHT))
    spent = []
    async with _engine(script) as engine:
        for _ in range(rounds):
            run = await engine.submit(request(team, document(IN_FLIGHT)))
            await asyncio.sleep(4)  # all are out by then: the result says so
            before = time.perf_counter()
            run.cancel()
            result = await run.result()
            spent.append((time.perf_counter() - before) * 1000)
            if result.calls != IN_FLIGHT or result.cost_micro_usd == 0:
                raise SystemExit(f"{IN_FLIGHT} calls were to be out: {result}")
    return spent


@asynccontextmanager
async def _engine(script: Script) -> AsyncIterator[Engine]:
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    server = context.Process(target=_serve, args=(script, theirs), daemon=True)
    server.start()
    url = await asyncio.to_thread(ours.recv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            async with an_engine(Path(folder) / "journal", url) as (engine, _journal):
                yield engine
    finally:
        ours.send("enough")
        await asyncio.to_thread(server.join)


def _serve(script: Script, pipe: Connection) -> None:
    async def serve() -> None:
        async with ScriptedModel(script, SERVED, BOOK) as model:
            pipe.send(model.url)
            await asyncio.to_thread(pipe.recv)

    asyncio.run(serve())


def _say(what: str, values: list[float], unit: str) -> None:
    sys.stdout.write(f"{what}: least {min(values):.2f} {unit}, median {statistics.median(values):.2f} {unit} of {len(values)}\n")


if __name__ == "__main__":
    main()
