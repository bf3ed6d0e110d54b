"""Admission: may this run start at all, with what purse, until when, and is there a place for it.

Decided here: the caps of a run (the team's, tightened by the client), its holdback, whether the cheapest start fits beside it, and who waits for a place.
Nothing here spends or writes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Literal

from modelfleet.core.teams.budget import Amount, Caps, Ledger, reservation, unpriced
from modelfleet.core.teams.ir import BudgetPlan, PriceTable, RoleTarget, TeamPlan
from modelfleet.core.teams.strategies.endings import CONTEXT_TOO_LONG, INVALID_INPUT
from modelfleet.core.teams.strategies.protocol import Call, Finish, Step, Strategy, Task
from modelfleet.core.teams.tokens import prompt_bound

from .refusals import BudgetBelowMinimum, Busy, InvalidTask, PriceUnknown, RoleUnavailable, TooLong

__all__ = ["Places", "caps_of", "first_step", "open_ledger", "priced", "tightest_deadline"]

_AGAIN: Final = 1.0
_ROLE_AGAIN: Final = 5.0


class Places:
    """The places of one team: ``max_runs`` runs go on, ``queue`` wait, first come first served. ``tell`` hears how many wait."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._running = 0
        self._most = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def empty(self) -> bool:
        """Whether nobody runs or waits."""
        return not self._running and not self._waiting

    def take(self, team: TeamPlan, *, anyway: bool = False) -> asyncio.Future[None]:
        """A place; done when the run may begin. ``anyway``: however many wait. Raises Busy."""
        self._most = team.max_runs
        if not anyway and self._running >= self._most and len(self._waiting) >= team.queue:
            raise Busy(f"team {team.key}: {self._running} runs go on and {len(self._waiting)} wait, which is all that spec.limits allows; try again", _AGAIN)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._fill()
        return place

    def give_back(self, place: asyncio.Future[None]) -> None:
        """A run has ended, or does not want to wait any more."""
        if place.done():
            self._running -= 1
        else:
            place.cancel()
            self._waiting.remove(place)
        self._fill()

    def _fill(self) -> None:
        while self._waiting and self._running < self._most:
            self._running += 1
            self._waiting.popleft().set_result(None)
        self._tell(len(self._waiting))


def priced(team: TeamPlan, targets: Mapping[str, RoleTarget], prices: PriceTable) -> None:
    """Raises RoleUnavailable for a role with nothing behind it, PriceUnknown where something that a call may reach has no price."""
    for role in sorted(team.roles):
        if role not in targets or not targets[role].flavors:
            raise RoleUnavailable(f"team {team.key}: nothing is behind role {role} ({team.roles[role].target}); see the conditions of the team", _ROLE_AGAIN)
    missing = unpriced((flavor for role in team.roles for flavor in targets[role].flavors), prices)
    if missing:
        names = ", ".join("/".join(flavor) for flavor in missing)
        raise PriceUnknown(f"team {team.key}: no price is known for {names}, so no run may spend there; give its ModelPool a price")


def first_step(team: TeamPlan, strategy: Strategy, task: Task) -> Step:
    """The strategy's first step. Raises TooLong or InvalidTask for a task that it cannot work on."""
    step = strategy.start(team, task)
    for command in step.commands:
        if isinstance(command, Finish):
            message = command.outcome.report.get("message")
            if command.outcome.stop_reason == CONTEXT_TOO_LONG:
                raise TooLong(f"team {team.key}: {message or 'the input has more parts than the team reads'}")
            if command.outcome.stop_reason == INVALID_INPUT:
                raise InvalidTask(f"team {team.key}: {message or 'the input cannot be read'}")
    return step


def caps_of(budget: BudgetPlan, cost_cap: int | None) -> Caps:
    """The caps of a run; ``cost_cap`` (micro-dollars) only tightens."""
    caps = Caps.of(budget)
    costs = [cap for cap in (caps.micro_usd, cost_cap) if cap is not None]
    return replace(caps, micro_usd=min(costs) if costs else None)


def tightest_deadline(budget: BudgetPlan, asked: float | None) -> tuple[float, Literal["WallClock", "ClientDeadline"]]:
    """Seconds until the run's time is up, and whose limit that is."""
    return (max(0.0, asked), "ClientDeadline") if asked is not None and asked < budget.wall_clock else (budget.wall_clock, "WallClock")


def open_ledger(
    team: TeamPlan,
    strategy: Strategy,
    task: Task,
    *,
    caps: Caps,
    targets: Mapping[str, RoleTarget],
    prices: PriceTable,
    step: Step | None = None,
) -> Ledger:
    """The run's ledger with its holdback set aside. With a first step: raises BudgetBelowMinimum if the cheapest of its calls does not fit beside it."""

    def amount(call: Call) -> Amount:
        bound = prompt_bound(call.messages, call.schema)
        most = min(call.max_tokens, team.roles[call.role].max_tokens)
        return reservation(bound, most, [prices[flavor] for flavor in targets[call.role].flavors])

    final = strategy.finalizing_call(team, task)
    # one without messages is never made: such a strategy ends without asking anybody
    holdback = amount(final) if team.budget.finalize and final.messages else Amount()
    ledger, _ = Ledger.open(caps, holdback)
    if step is None:
        return ledger
    first = [amount(call) for call in step.commands if isinstance(call, Call)]
    least = holdback + min(first, key=lambda one: one.micro_usd) if first else holdback
    match caps.broken_by(least):
        case "RunCost":
            field, needs, has = "cost", _dollars(least.micro_usd), _dollars(caps.micro_usd or 0)
        case "RunTokens":
            field, needs, has = "tokens", str(least.tokens), str(caps.tokens)
        case "RunModelCalls":
            field, needs, has = "modelCalls", str(least.calls), str(caps.calls)
        case _:
            return ledger
    why = "its first call and the holdback for an honest end" if team.budget.finalize else "its first call"
    raise BudgetBelowMinimum(f"team {team.key}: a run over this input sets aside {needs} for {why}, and budget.perRun.{field} (or the client's limit) is {has}")


def _dollars(micro: int) -> str:
    return f"{micro // 1_000_000}.{micro % 1_000_000:06d} dollars"
