"""The volume of the journal runs full while a team works: what was promised is the last that is spent, runs end with a word, and with room they go on.

The engine and then the whole process, each on a small volume of its own and with the scripted server as the witness of what was asked.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.apiserver import ApiServer
from tests.support.scripted_model import Script, ScriptedModel
from tests.support.scripted_team import BOOK, SERVED, an_engine, document, map_reduce_team, request, roles
from tests.support.volume import full, mounted
from tests.teamserver.test_process import POOL, TEAM, Process

from modelfleet.teamserver.engine import JournalUnavailable

pytestmark = pytest.mark.real
AT_ONCE = 2


@pytest.fixture
def volume(tmp_path: Path):
    with mounted(tmp_path / "volume", 32) as folder:
        yield folder


async def test_a_run_stops_spending_and_its_end_is_written_once_there_is_room(volume: Path):
    team = map_reduce_team(of=roles(max_concurrent=AT_ONCE))
    async with ScriptedModel(Script(latency=(0.01, 0.02)), SERVED, BOOK) as model:
        async with an_engine(volume / "journal", model.url) as (engine, journal):
            run = await engine.submit(request(team, document(400)))
            while len(model.seen) < 20:
                await asyncio.sleep(0.005)
            with full(volume):
                result = await run.result()
                asked = len(model.seen)
                assert (result.outcome.state, result.outcome.stop_reason) == ("Failed", "RuntimeLost")
                with pytest.raises(JournalUnavailable, match="the journal takes no rows"):
                    await engine.submit(request(team, document(3)))
                await asyncio.sleep(0.2)
                assert len(model.seen) == asked < 400, "nobody is asked without a row that says so"
                assert not journal.healthy
                promised = await journal.calls(run.id)
                assert set(model.calls()) <= {call.call_id for call in promised}
            assert await journal.probe(0.0)
            short = await (await engine.submit(request(team, document(3)))).result()
            assert short.outcome.state == "Succeeded", "with room again, new runs are as ever"
        asked = len(model.seen)
        async with an_engine(volume / "journal", model.url) as (engine, journal):
            assert engine.run(run.id) is None, "a run whose end was told is not taken up again"
            calls = await journal.calls(run.id)
        assert len(model.seen) == asked
        assert {call.state for call in calls} & {"Reserved", "reserved"} == set()
        witnessed = sum(seen.cost for seen in model.seen if seen.grant.run == run.id)
        assert sum(call.charged or 0 for call in calls) == result.cost_micro_usd >= witnessed, "what was lost on the way is paid for, not forgotten"
        assert result.cost_micro_usd <= 1_000_000, "the cap of the run"


async def test_the_process_says_so_asks_nobody_and_is_well_again(make_apiserver, volume: Path, tmp_path: Path):
    server: ApiServer = make_apiserver()
    server.apply_crds()
    server.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: legal}\n")
    server.apply(POOL + TEAM.replace("INSTRUCTIONS", "one"))
    served, book = {"pool:legal/boss": (("legal/boss", "far"),)}, {("legal/boss", "far"): (1_000_000, 2_000_000)}
    async with ScriptedModel(Script(completion=(40, 40), pause=0.02), served, book) as model:
        process = Process(server, model.url, tmp_path)
        try:
            await process.until("/readyz", 200)
            await process.restart(MODELFLEET_JOURNAL=str(volume / "journal"))
            assert (await process.ask()).json()["modelfleet"]["state"] == "Succeeded"
            with full(volume):
                refused = await process.ask(messages=[{"role": "user", "content": "x" * 200_000}])
                assert refused.status_code == 503, refused.text
                assert refused.headers["retry-after"]
                assert refused.json()["error"]["message"], refused.text
                asked = len(model.seen)
                await process.until("/readyz", 503)
                assert "the journal takes no rows" in (await process.client.get("/readyz")).text
                assert (await process.client.get("/healthz")).status_code == 200, "a restart would not make room"
                again = await process.ask()
                assert (again.status_code, again.json()["error"]["code"]) == (503, "not_ready")
                assert len(model.seen) == asked == 1
            await process.until("/readyz", 200)
            assert (await process.ask()).json()["modelfleet"]["state"] == "Succeeded"
            assert process.child.poll() is None
        finally:
            await process.close()


async def test_a_run_that_ends_while_the_volume_is_full_is_not_called_a_success(volume: Path):
    """Its last words could not be written: it would be run again after a restart, and the client would have two answers."""
    team = replace(map_reduce_team(of=roles(max_concurrent=1)), queue=0)
    async with ScriptedModel(Script(latency=(0.05, 0.05)), SERVED, BOOK) as model, an_engine(volume / "journal", model.url) as (engine, journal):
        run = await engine.submit(request(team, document(1)))
        while len(model.seen) < 2:
            await asyncio.sleep(0.002)
        with full(volume):
            result = await run.result()
            row = await journal.run(run.id)
        assert row is not None
        assert (row.state == "Succeeded") == (result.outcome.state == "Succeeded")
