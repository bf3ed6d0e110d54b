"""Teams for the scripted server: plans made by hand, small enough to count in one's head, and an engine over a journal of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelfleet.api.v1alpha1.agentteam import Chain, MapReduce
from modelfleet.core.teams.ir import BudgetPlan, RolePlan, RoleTarget, Target, TeamPlan, TokenPrice
from modelfleet.core.teams.strategies.protocol import Task
from modelfleet.teamserver.engine import Engine, RunRequest
from modelfleet.teamserver.journal.sqlite import SqliteJournal

from .scripted_model import KEY

__all__ = ["BOOK", "SERVED", "TARGETS", "an_engine", "chain_team", "document", "map_reduce_team", "request"]

SMALL, BOSS = "pool:legal/small", "policy:legal/frontier"
SERVED = {SMALL: (("legal/small", "cpu"),), BOSS: (("legal/large", "gpu"), ("legal/paid", "remote"))}
BOOK = {("legal/small", "cpu"): (20_000, 40_000), ("legal/large", "gpu"): (1_000_000, 2_000_000), ("legal/paid", "remote"): (3_000_000, 15_000_000)}
PRICES = {flavor: TokenPrice(*price) for flavor, price in BOOK.items()}
TARGETS = {
    "reader": RoleTarget(flavors=SERVED[SMALL], candidates=1, usable=True),
    "boss": RoleTarget(flavors=SERVED[BOSS], candidates=2, usable=True),
}
HOSTED = {
    "reader": replace(TARGETS["reader"], hosted=frozenset(SERVED[SMALL])),
    "boss": replace(TARGETS["boss"], hosted=frozenset(SERVED[BOSS][:1])),
}
FINDING = {
    "type": "object",
    "required": ["relevant", "finding"],
    "properties": {"relevant": {"type": "boolean"}, "finding": {"type": "string", "maxLength": 40}},
}
RETRIED = frozenset({"Timeout", "RateLimited", "ServerError", "InvalidOutput"})


def roles(*, schema: bool = True, **changes: Any) -> dict[str, RolePlan]:
    """A reader on the small pool and a boss on the policy. ``changes`` hold for both."""
    reader = RolePlan(
        "reader", Target("pool", "legal/small"), "Find what matters.", 60, 90.0, 64, max_retries=2, backoff=0.005, retry_on=RETRIED,
        schema=json.dumps(FINDING, sort_keys=True, separators=(",", ":")) if schema else None,
    )  # fmt: skip
    boss = RolePlan("boss", Target("policy", "legal/frontier"), "Answer.", 40, 90.0, 8, max_retries=2, backoff=0.005, retry_on=RETRIED)
    return {"reader": replace(reader, **changes), "boss": replace(boss, **changes)}


def budget(**changes: Any) -> BudgetPlan:
    """One dollar and ten minutes, with an honest end."""
    return replace(BudgetPlan(cost_micro_usd=1_000_000, tokens=None, model_calls=5000, wall_clock=600.0, finalize=True), **changes)


def map_reduce_team(
    *, min_successful: str = "50%", concat: bool = False, of: dict[str, RolePlan] | None = None, on_failure: str = "Continue", **caps: Any
) -> TeamPlan:
    """Lines read by the reader; the boss answers (or the findings are joined)."""
    last = {"reducer": "Concat"} if concat else {"reduce": {"role": "boss", "fanIn": 32}}
    spec = {"split": {"by": "Lines", "maxItems": 1000}, "map": {"role": "reader"}, "minSuccessful": min_successful, "onBranchFailure": on_failure, **last}
    return _team(MapReduce.model_validate(spec), of or roles(), "reader" if concat else "boss", caps)


def chain_team(*steps: tuple[str, str], of: dict[str, RolePlan] | None = None, on_failure: str = "Fail", **caps: Any) -> TeamPlan:
    """Steps as (name, role), each told the task."""
    spec = {"steps": [{"name": name, "role": role, "onFailure": on_failure} for name, role in steps or (("only", "boss"),)]}
    return _team(Chain.model_validate(spec), of or roles(schema=False), (steps or (("only", "boss"),))[-1][1], caps)


def _team(strategy: Chain | MapReduce, of: dict[str, RolePlan], answering: str, caps: dict[str, Any]) -> TeamPlan:
    return TeamPlan(
        "legal/review", 1, "r-0123456789", "Reads.", suspended=False, roles=of, strategy=strategy, answering_role=answering, budget=budget(**caps),
        max_runs=50, queue=200, journal_full=True, journal_ttl=3600.0,
    )  # fmt: skip


def document(lines: int) -> Task:
    """A question over so many lines."""
    return Task("What matters?", ("\n".join(f"line {index}" for index in range(lines)),))


def request(team: TeamPlan, task: Task | None = None, **changes: Any) -> RunRequest:
    """A run's request."""
    return replace(RunRequest(team, TARGETS, PRICES, task or document(3), caller="ada"), **changes)


@asynccontextmanager
async def an_engine(path: Path, url: str, **changes: Any) -> AsyncIterator[tuple[Engine, SqliteJournal]]:
    """An engine over its own journal; what is left at the end is let go."""
    journal = await SqliteJournal.open(path)
    engine = Engine(journal, url, lambda: [KEY], **changes)
    await engine.start()
    try:
        yield engine, journal
    finally:
        await engine.drain(0)
        await journal.close()
