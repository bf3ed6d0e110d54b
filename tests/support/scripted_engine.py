"""An engine in a process of its own, so that it can be killed: submits one run if the journal has none, else takes up what is there; prints how it ended."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from modelfleet.teamserver.records import result_bytes

from .scripted_team import an_engine, document, map_reduce_team, request, roles

RUN = "run-killed"
LINES = 60


def team(cap: int = 200_000):
    """What the process runs."""
    return map_reduce_team(of=roles(max_concurrent=12, max_retries=3), min_successful="90%", cost_micro_usd=cap)


async def main(path: str, url: str) -> None:
    """Until the run has ended."""
    async with an_engine(Path(path), url) as (engine, journal):
        row = await journal.run(RUN)
        if row is None:
            # a run without a key is not taken up: nobody could come back for it
            await journal.remember_key("the key", "ada", "", RUN, time.time())
            run = await engine.submit(request(team(), document(LINES), run_id=RUN))
        else:
            while (run := engine.run(RUN)) is None and (await journal.run(RUN)).state == "Running":
                await asyncio.sleep(0.005)
        result = result_bytes(await run.result()) if run is not None else (await journal.run(RUN)).result
        print(result.decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
