"""Drives one run: events into its strategy, commands out of it, until it says how it ended.

Every event is written down before the strategy hears it, so a later process that replays the journal comes to the same state. Decided here: the order of
events (as they arrive). Not decided here: what to do next (the strategy), how a call is made (the executor), when a run may begin (the engine).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from modelfleet.core.teams.ir import TeamPlan
from modelfleet.core.teams.strategies.protocol import (
    BudgetRefused,
    Call,
    CallCancelled,
    CallFailed,
    CallSucceeded,
    CancelCall,
    Command,
    DeadlineReached,
    Event,
    Finish,
    Outcome,
    Step,
    Strategy,
)

from .account import Account
from .debts import Debts
from .executor import Executor, Past
from .journal.protocol import Journal, JournalError, PayloadTooLarge
from .metrics import TeamMetrics
from .records import Pinned, RunResult, event_bytes, result_bytes
from .run import Run

__all__ = ["Driver", "RunParts"]

_log = logging.getLogger(__name__)
_ENDS = CallSucceeded | CallFailed | CallCancelled | BudgetRefused
_LOST = Outcome("Failed", "RuntimeLost", complete=False)


@dataclass(frozen=True, slots=True)
class RunParts:
    """What a run is made of. Times in Unix seconds."""

    run_id: str
    plan: TeamPlan
    pinned: Pinned
    started: float
    deadline: float
    strategy: Strategy
    account: Account
    executor: Executor
    journal: Journal
    metrics: TeamMetrics
    debts: Debts


class Driver:
    """Drives one run from its first step, or from where its journal ends, to its end."""

    def __init__(self, run: Run, parts: RunParts) -> None:
        self.run = run
        self._parts = parts
        self._state: Any = None
        self._seq = 0
        self._open: dict[str, Call] = {}
        self._given_up: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._past: Mapping[str, Past] = {}
        self._placed = False
        self._group: asyncio.TaskGroup | None = None
        self.outcome: Outcome | None = None

    def begin(self, step: Step, events: Iterable[Event] = (), past: Mapping[str, Past] | None = None, *, next_seq: int = 0) -> None:
        """Take the first step, then hear again what was heard before. ``past``: call id -> attempts before; ``next_seq``: of the next event."""
        self._past = past or {}
        self._seq = next_seq
        self._note(step)
        for event in events:
            if self.outcome is None:
                self._note(self._parts.strategy.step(self._state, event), event)
        for call_id in sorted(self._given_up & set(self._open)):
            self.run.post(CallCancelled(call_id))

    async def drive(self) -> None:
        """Until the end, or until this process lets go of the run (it is cancelled): then the journal has all that a later one needs."""
        parts = self._parts
        deadline = DeadlineReached(parts.pinned.deadline_by)
        timer = asyncio.get_running_loop().call_later(max(0.0, parts.deadline - time.time()), self.run.post, deadline)
        try:
            await self._work()
            await parts.account.written()
            await self._finish()
        finally:
            timer.cancel()
            if self.outcome is None:
                with contextlib.suppress(asyncio.CancelledError):
                    await parts.account.written()
            self.run.end(self._report(self.outcome or _LOST))

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._group:
                while self.outcome is None:
                    news = await self.run.news()
                    await self._write([event for event in news if event is not None])
                    for event in news:
                        if event is not None and self.outcome is None:
                            self._do(self._note(self._parts.strategy.step(self._state, event), event))
                    if None in news:
                        self._leave()
                for task in self._tasks.values():
                    task.cancel()
        except* JournalError as lost:
            _log.warning("a run ends, since nothing of it can be written down", extra={"run": self.run.id, "reason": str(lost.exceptions[0])})
            # a run that had ended has ended: what it came to was written down before
            self.outcome = self.outcome or _LOST
        except* Exception:  # noqa: BLE001 - the run ends, the process goes on
            _log.exception("a run ends by a bug", extra={"run": self.run.id})
            self.outcome = Outcome("Failed", "Internal", complete=False)

    async def _write(self, events: list[Event]) -> None:
        """Everything durable before anything is acted on."""
        rows = [(self._seq + index, *event_bytes(event)) for index, event in enumerate(events)]
        self._seq += len(rows)
        await asyncio.gather(*(self._parts.journal.append(self.run.id, seq, kind, payload) for seq, kind, payload in rows))

    def _note(self, step: Step, event: Event | None = None) -> tuple[Command, ...]:
        """Remember what a step changed; its commands."""
        self._state = step.state
        if isinstance(event, _ENDS):
            self._open.pop(event.call, None)
        for command in step.commands:
            match command:
                case Call():
                    self._open[command.id] = command
                case CancelCall():
                    self._given_up.add(command.id)
                case Finish():
                    self.outcome = command.outcome
        return step.commands

    def _do(self, commands: tuple[Command, ...]) -> None:
        for command in commands:
            match command:
                case Call() if self._placed:
                    self._start(command)
                case CancelCall() if command.id in self._tasks:
                    self._tasks[command.id].cancel()
                case CancelCall() if command.id in self._open:
                    self.run.post(CallCancelled(command.id))

    def _leave(self) -> None:
        """The run's turn: every call that waited for it starts."""
        self._placed = True
        for call in list(self._open.values()):
            if call.id not in self._given_up:
                self._start(call)

    def _start(self, call: Call) -> None:
        if self._group is None or self.outcome is not None:
            return
        task = self._group.create_task(self._execute(call), name=f"{self.run.id}/{call.id}")
        self._tasks[call.id] = task
        task.add_done_callback(lambda done: self._ended(call.id, done))

    async def _execute(self, call: Call) -> None:
        try:
            event = await self._parts.executor.execute(call, self._past.get(call.id, Past()), self.run.hear)
        except JournalError:
            raise
        except Exception:  # noqa: BLE001 - a failed call, not a failed run
            _log.exception("a call failed by a bug", extra={"run": self.run.id, "call": call.id})
            event = CallFailed(call.id, "Internal")
        self.run.post(event)

    def _ended(self, call_id: str, task: asyncio.Task[None]) -> None:
        # not in the task itself: one that is cancelled before it began never runs
        self._tasks.pop(call_id, None)
        if task.cancelled() and call_id in self._given_up:
            self.run.post(CallCancelled(call_id))

    async def _finish(self) -> None:
        parts, outcome = self._parts, self.outcome or _LOST
        finish = partial(parts.journal.finish, self.run.id, outcome.state, outcome.stop_reason)
        result, now = result_bytes(self._report(outcome)), time.time()
        try:
            try:
                await finish(result, now)
            except PayloadTooLarge:
                result = b""
                await finish(result, now)
        except JournalError as error:
            _log.warning("the end of a run was not written down", extra={"run": self.run.id, "reason": error.reason})
            parts.debts.owe(self.run.id, partial(finish, result, now))
        parts.metrics.run_finished(self.run.team, outcome.state, outcome.stop_reason, time.time() - parts.started)

    def _report(self, outcome: Outcome) -> RunResult:
        account = self._parts.account
        roles, ledger = account.roles, account.ledger
        cap = ledger.caps.micro_usd
        return RunResult(
            outcome,
            prompt_tokens=sum(role.prompt_tokens for role in roles),
            completion_tokens=sum(role.completion_tokens for role in roles),
            cached_tokens=account.cached_tokens,
            cost_micro_usd=ledger.charged.micro_usd,
            calls=sum(role.calls for role in roles),
            assumed=ledger.assumed > 0,
            by_role=roles,
            budget_left_micro_usd=None if cap is None else max(0, cap - ledger.charged.micro_usd),
        )
