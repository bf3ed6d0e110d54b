"""Budget torture: five hundred branches, usage drawn within its bounds, every fault, retries and cancels; the server's own price book is the judge.

The same load on a gate that checks before a call and adds up after it must overshoot; otherwise none of this proves anything.
"""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import pytest
from tests.support.scripted_model import KEY, Script, ScriptedModel
from tests.support.scripted_team import BOOK, HOSTED, SERVED, TARGETS, an_engine, document, map_reduce_team, request

from modelfleet.core.grants import GRANT_HEADER, Grant, sign_grant
from modelfleet.core.teams.strategies import strategy_of
from modelfleet.core.teams.strategies.protocol import Call
from modelfleet.teamserver.calls import request_body
from modelfleet.teamserver.metrics import TeamMetrics

pytestmark = pytest.mark.real
BRANCHES = 500
HOLDBACK = 49_600
"""Micro-dollars that the finalizing call of this team sets aside, rounded up."""
FAULTS = {"rate_limited": 0.03, "overloaded": 0.03, "server_error": 0.04, "reset_before": 0.03, "reset_after": 0.03, "cut": 0.03, "garbage": 0.02}


def model(**script):
    return ScriptedModel(Script(**script), SERVED, BOOK)


def reserved(metrics: TeamMetrics) -> float:
    return metrics.registry.get_sample_value("modelfleet_team_reservation_open_micro_usd", {"team": "legal/review"})


@pytest.mark.parametrize(("seed", "room", "cancelled"), [(0, 2_500, False), (1, 2_500, True), (2, 1_200, False), (3, 600, True)])
@pytest.mark.parametrize("targets", [TARGETS, HOSTED], ids=["paid", "hosted"])
async def test_what_the_server_bills_never_exceeds_the_cap(tmp_path, seed, room, cancelled, targets):
    metrics, cap = TeamMetrics(), HOLDBACK + room
    team = map_reduce_team(min_successful="1%", cost_micro_usd=cap)
    script = {"faults": FAULTS, "latency": (0.0, 0.03), "no_usage": 0.03, "misfit": 0.03, "plain": 0.1}
    async with model(seed=seed, **script) as server, an_engine(tmp_path / "j", server.url, metrics=metrics) as (engine, journal):
        run = await engine.submit(request(team, document(BRANCHES), targets=targets))
        while cancelled and len(server.seen) < 60:
            await asyncio.sleep(0.005)
        if cancelled:
            run.cancel()
        result = await run.result()
        rows = await journal.calls(run.id)
        while server.at_once.total():
            await asyncio.sleep(0.005)
    assert server.cost <= result.cost_micro_usd <= cap
    if not cancelled:
        # the run was stopped by money, not by anything else: the next call would not have fitted
        assert (result.outcome.state, result.outcome.stop_reason) == ("BudgetExhausted", "RunCost")
        mapped = sum(row.charged for row in rows if row.role == "reader")
        assert room - 40 < mapped <= room
    else:
        assert result.outcome.state == "Cancelled"
    assert sum(row.charged for row in rows) == result.cost_micro_usd
    assert {row.state for row in rows} <= {"settled", "assumed", "released"}
    assert reserved(metrics) == 0
    assert not server.refused_grants


async def test_usage_beyond_its_bound_is_paid_once_and_stops_the_run(tmp_path):
    metrics, cap = TeamMetrics(), HOLDBACK + 4_000
    team = map_reduce_team(min_successful="1%", cost_micro_usd=cap)
    async with model(seed=5, inflated=0.03, latency=(0.0, 0.03)) as server, an_engine(tmp_path / "j", server.url, metrics=metrics) as (engine, journal):
        run = await engine.submit(request(team, document(BRANCHES)))
        result = await run.result()
        rows = await journal.calls(run.id)
    assert (result.outcome.state, result.outcome.stop_reason) == ("BudgetExhausted", "ProviderOverran")
    over = [row for row in rows if row.charged > row.reserved]
    assert over
    assert all(row.flags == ("overran",) for row in over)
    assert server.cost <= result.cost_micro_usd <= cap + sum(row.charged - row.reserved for row in over)
    assert len(rows) < BRANCHES / 2
    assert reserved(metrics) == 0


async def test_the_control_overshoots(tmp_path):
    cap = 1_200
    team = map_reduce_team()
    calls = [command for command in strategy_of(team).start(team, document(BRANCHES)).commands if isinstance(command, Call)]
    spent, seats = 0, asyncio.Semaphore(64)

    async def branch(call: Call, http: httpx.AsyncClient) -> None:
        nonlocal spent
        async with seats:
            if spent >= cap:
                return
            role = team.roles[call.role]
            grant = Grant(team.key, "run-control", role.name, call.id + "#0", "ada", str(role.target), int(time.time()) + 60, cap)
            headers = {GRANT_HEADER: sign_grant(grant, KEY)}
            reply = await http.post(server.url + "/v1/chat/completions", content=request_body(call, role, str(role.target)), headers=headers)
            usage = json.loads(reply.text.rpartition('"usage": ')[2].partition("}")[0] + "}")
            given, made = BOOK["legal/small", "cpu"]
            spent += -(-(usage["prompt_tokens"] * given + usage["completion_tokens"] * made) // 1_000_000)

    async with model(seed=2, latency=(0.0, 0.03)) as server, httpx.AsyncClient(trust_env=False, timeout=30) as http:
        await asyncio.gather(*(branch(call, http) for call in calls))
    assert len(calls) == BRANCHES
    assert spent == server.cost > cap
