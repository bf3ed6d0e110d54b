"""The OpenAI door before a scripted engine: runs whose text and end a test gives, over a real journal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx

from modelfleet.api.v1alpha1.agentteam import Chain, ChainStep
from modelfleet.core.teams.ir import BudgetPlan, Problem, RolePlan, Target, TeamPlan, TeamsPlan
from modelfleet.core.teams.strategies.protocol import Outcome
from modelfleet.teamserver.engine import RunRequest
from modelfleet.teamserver.front_openai import Front
from modelfleet.teamserver.http import http_app
from modelfleet.teamserver.joins import Joins
from modelfleet.teamserver.journal.sqlite import SqliteJournal
from modelfleet.teamserver.metrics import TeamMetrics
from modelfleet.teamserver.records import RoleUsage, RunResult
from modelfleet.teamserver.run import Run

NOW = 1_000_000.0


def a_team(key: str, *, suspended: bool = False) -> TeamPlan:
    role = RolePlan("boss", Target("pool", "legal/boss"), "", 100, 60.0, 4)
    budget = BudgetPlan(500_000, None, 100, 60.0, finalize=True)
    chain = Chain(steps=[ChainStep(name="only", role="boss")])
    return TeamPlan(key, 1, "r-0123456789", f"about {key}", suspended, {"boss": role}, chain, "boss", budget, 50, 200, True, 3600.0)


PLAN = TeamsPlan(
    teams={key: a_team(key, suspended=key == "legal/asleep") for key in ("legal/review", "legal/twin", "shop/twin", "legal/asleep")},
    names={
        "review": "legal/review", "legal/review": "legal/review", "legal/twin": "legal/twin", "shop/twin": "shop/twin", "legal/asleep": "legal/asleep",
        "asleep": "legal/asleep", "legal/broken": "legal/broken",
    },
    problems=(Problem("legal/broken", "ResolvedRefs", "PoolNotFound", "spec.roles[0].modelFrom: there is no pool legal/x"),),
)  # fmt: skip
ASK = {"model": "review", "messages": [{"role": "user", "content": "why?"}]}


class ScriptedRun(Run):
    """A run whose text and end a test gives."""

    def __init__(self, run_id: str) -> None:
        self.id, self.team, self.revision = run_id, "legal/review", "r-0123456789"
        self.texts: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        self.ended: asyncio.Future[RunResult] = asyncio.get_running_loop().create_future()
        self.cancelled: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def end(self, state: str, stop_reason: str, *pieces: str, answer: str | None = None) -> ScriptedRun:
        answer = "".join(pieces) if pieces else answer
        report = {"steps": 1}
        outcome = Outcome(state, stop_reason, answer, complete=state == "Succeeded", report=report)  # type: ignore[arg-type]
        self.ended.set_result(RunResult(outcome, 30, 12, 5, 777, 2, assumed=True, by_role=(RoleUsage("boss", 2, 30, 12, 777),), budget_left_micro_usd=9))
        for piece in pieces:
            self.texts.put_nowait(piece)
        self.texts.put_nowait(None)
        return self

    async def text(self) -> AsyncIterator[str]:  # type: ignore[override]
        while (piece := await self.texts.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def result(self) -> RunResult:
        return await asyncio.shield(self.ended)

    def cancel(self, by: str = "CancelRequested") -> None:  # type: ignore[override]
        if not self.cancelled.done():
            self.cancelled.set_result(by)


class ScriptedEngine:
    """Each submitted run is handed to ``script``; keeps those going on by id."""

    def __init__(self, script: Callable[[ScriptedRun], object]) -> None:
        self.script = script
        self.requests: list[RunRequest] = []
        self.going_on: dict[str, ScriptedRun] = {}

    async def submit(self, request: RunRequest) -> ScriptedRun:
        self.requests.append(request)
        assert request.run_id is not None
        run = ScriptedRun(request.run_id)
        script = self.script(run)
        if isinstance(script, Awaitable):
            await script
        self.going_on[run.id] = run
        return run

    def run(self, run_id: str) -> ScriptedRun | None:
        return self.going_on.get(run_id)


class Door:
    """A front over a scripted engine and a real journal."""

    def __init__(self, engine: ScriptedEngine, journal: SqliteJournal, **settings: Any) -> None:
        self.engine, self.journal = engine, journal
        self.trouble: str | None = None
        self.front = front = Front(engine, Joins(engine, journal, lambda: NOW), lambda: PLAN, lambda: self.trouble, **settings)  # type: ignore[arg-type]

        async def ready() -> str | None:
            return self.trouble

        self.app = http_app(front.routes(), TeamMetrics().registry, ready, lambda: True)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app, raise_app_exceptions=False), base_url="http://t")

    async def chat(self, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json=ASK | fields, headers=headers)


Open = Callable[..., Door]


def done(run: ScriptedRun) -> None:
    run.end("Succeeded", "Completed", "be", "cause")


def ends(state: str, reason: str, answer: str | None) -> Callable[[ScriptedRun], object]:
    return lambda run: run.end(state, reason, answer=answer)


def refuses(error: Exception) -> Callable[[ScriptedRun], object]:
    def script(_: ScriptedRun) -> None:
        raise error

    return script


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
