"""What the journal's opaque bytes hold: plans, what a run pinned at its start, what happened to it, how it ended. JSON, one function each way.

Not decided here: when something is written. Text that a model wrote may hold half of a surrogate pair after parsing; it goes there and back unchanged.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from modelfleet.core.teams.ir import PriceTable, RoleTarget, TeamPlan, TokenPrice
from modelfleet.core.teams.strategies.protocol import (
    BudgetRefused,
    CallCancelled,
    CallFailed,
    CallSucceeded,
    CancelRequested,
    DeadlineReached,
    Event,
    Outcome,
    Task,
)

__all__ = [
    "Pinned",
    "RoleUsage",
    "RunResult",
    "event_bytes",
    "pinned_bytes",
    "plan_bytes",
    "read_event",
    "read_pinned",
    "read_plan",
    "read_result",
    "result_bytes",
]


@dataclass(frozen=True, slots=True)
class RoleUsage:
    """What one role used in a run, attempts that failed or were cancelled included. ``calls`` are attempts."""

    role: str
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_micro_usd: int = 0


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended and what it cost.

    ``calls`` are attempts, those included that were released unbilled. ``assumed``: a provider did not say what a call used, so that it is charged at its
    bound. ``budget_left_micro_usd`` None: the run had no cap on money.
    """

    outcome: Outcome
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost_micro_usd: int = 0
    calls: int = 0
    assumed: bool = False
    by_role: tuple[RoleUsage, ...] = ()
    budget_left_micro_usd: int | None = None


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a run keeps from its start to its end, whatever happens to its team: the task, prices, what its roles reach, and its tightened limits."""

    task: Task
    targets: dict[str, RoleTarget]
    prices: tuple[tuple[str, str, int, int], ...]
    cost_cap: int | None
    deadline_by: Literal["WallClock", "ClientDeadline"]

    @property
    def price_table(self) -> PriceTable:
        """The prices as the ledger wants them."""
        return {(pool, flavor): TokenPrice(given, made) for pool, flavor, given, made in self.prices}


T = TypeVar("T")

_PLAN: Final = TypeAdapter(TeamPlan)
_PINNED: Final = TypeAdapter(Pinned)
_RESULT: Final = TypeAdapter(RunResult)
_EVENTS: Final[dict[str, Any]] = {kind.__name__: kind for kind in (BudgetRefused, CallCancelled, CallFailed, CallSucceeded, CancelRequested, DeadlineReached)}


def plan_bytes(plan: TeamPlan) -> bytes:
    """A plan for the journal."""
    return _PLAN.dump_json(plan, by_alias=True)


def read_plan(raw: bytes) -> TeamPlan:
    """A plan of the journal. Raises ValueError for one that this version cannot read."""
    return _read(_PLAN, raw, "a plan")


def pinned_bytes(pinned: Pinned) -> bytes:
    """What a run pinned, for the journal."""
    return _PINNED.dump_json(pinned)


def read_pinned(raw: bytes) -> Pinned:
    """What a run pinned. Raises ValueError for something that this version cannot read."""
    return _read(_PINNED, raw, "a request")


def event_bytes(event: Event) -> tuple[str, bytes]:
    """Kind and payload of an event."""
    parts = {part.name: getattr(event, part.name) for part in fields(event)}
    return type(event).__name__, json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def read_event(kind: str, payload: bytes) -> Event:
    """An event of the journal. Raises ValueError for one that this version cannot read."""
    try:
        event: Event = _EVENTS[kind](**json.loads(payload))
    except (KeyError, TypeError) as error:
        raise ValueError(f"the journal holds an event that this version does not know: {kind}") from error
    return event


def result_bytes(result: RunResult) -> bytes:
    """A result for the journal."""
    return _RESULT.dump_json(result)


def read_result(raw: bytes) -> RunResult:
    """A result of the journal. Raises ValueError for one that this version cannot read."""
    return _read(_RESULT, raw, "a result")


def _read(adapter: TypeAdapter[T], raw: bytes, what: str) -> T:
    try:
        return adapter.validate_json(raw)
    except ValidationError as error:
        # its own words quote what was there: prompts and answers, which no log may hold
        places = ", ".join(sorted({".".join(str(part) for part in fault["loc"]) or "the whole" for fault in error.errors(include_input=False)})[:4])
        raise ValueError(f"the journal holds {what} that this version cannot read, at {places}") from None
