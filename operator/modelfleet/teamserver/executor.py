"""The executor: one call of a run, from its place in the line to its one event.

Each attempt takes a place and money at the same moment, is written down, leaves with a grant of its own, and is settled whatever becomes of it. Decided here:
whether a failed attempt is followed by another. Backoff is the same whenever the same attempt fails. Not decided here: what the event means to the run.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx

from modelfleet.core.grants import GRANT_HEADER, LIFETIME, Grant, sign_grant
from modelfleet.core.teams.ir import RolePlan, TeamPlan
from modelfleet.core.teams.strategies.protocol import BudgetRefused, Call, CallFailed, CallSucceeded, Event, Task

from .account import Account, Attempt, NotPaid
from .calls import CallFault, Received, ask, request_body, typed_value
from .circuits import Circuits, Pass
from .debts import Debts
from .journal.protocol import MAX_PAYLOAD, Journal, JournalError
from .metrics import TeamMetrics
from .pacing import Pacer
from .records import event_bytes

__all__ = ["Executor", "Past", "Workshop", "backoff"]

_LONGEST_BACKOFF: Final = 30.0
_LONG: Final = 16 * 1024


@dataclass(slots=True)
class Workshop:
    """What the runs of a process share."""

    journal: Journal
    gateway_url: str
    grant_keys: Callable[[], Sequence[bytes]]
    http: httpx.AsyncClient
    metrics: TeamMetrics
    pacer: Pacer = field(default_factory=Pacer)
    circuits: Circuits = field(default_factory=Circuits)
    debts: Debts = field(default_factory=Debts)


@dataclass(frozen=True, slots=True)
class Past:
    """Attempts that a former process made at a call. ``failed``: those that ended by themselves; one that was lost with its process is no retry."""

    made: int = 0
    failed: int = 0


def backoff(role: RolePlan, run_id: str, key: str, failures: int) -> float:
    """Seconds before the next attempt: doubling, spread by up to a half either way, the same for the same attempt."""
    spread = hashlib.sha256(f"{run_id}/{key}".encode()).digest()[0] / 255
    return min(_LONGEST_BACKOFF, role.backoff * 2.0 ** min(failures - 1, 16)) * (0.5 + spread)


class Executor:
    """Executes the calls of one run. ``deadline``: Unix seconds; ``task``: what the client wishes of the answer's sampling."""

    def __init__(self, shop: Workshop, run_id: str, plan: TeamPlan, *, task: Task, caller: str, deadline: float, account: Account) -> None:
        self._shop = shop
        self._run = run_id
        self._plan = plan
        self._task = task
        self._caller = caller
        self._deadline = deadline
        self._account = account

    async def execute(self, call: Call, past: Past, on_text: Callable[[str], None]) -> Event:
        """The one event of a call. ``past``: its attempts before; ``on_text`` hears the run's answer as it comes, if this call gives it.

        Raises JournalError when nothing can be written down any more.
        """
        role = self._plan.roles[call.role]
        number, failed = past.made, past.failed
        streaming = _Streaming(on_text, open=call.answers and call.schema is None)
        while True:
            attempt = self._account.attempt(call, number)
            try:
                return await self._attempt(attempt, role, streaming)
            except NotPaid as refusal:
                return BudgetRefused(call.id, refusal.cap)
            except CallFault as fault:
                failed += 1
                if failed > role.max_retries or fault.trigger not in role.retry_on or streaming.begun:
                    return CallFailed(call.id, fault.error)
                pause = max(fault.retry_after, backoff(role, self._run, attempt.key, failed))
                if time.time() + pause >= self._deadline:
                    return CallFailed(call.id, fault.error)
            await asyncio.sleep(pause)
            number += 1

    async def _attempt(self, attempt: Attempt, role: RolePlan, streaming: _Streaming) -> Event:
        """One attempt in its place. Raises NotPaid, CallFault, JournalError."""
        seat, shop = (self._plan.key, role.name), self._shop
        held = _Held(self, attempt)
        try:
            await shop.pacer.enter(attempt.target, self._run, seat, role.max_concurrent, held.take)
        except asyncio.CancelledError:
            held.give_back()
            raise
        try:
            return await self._paid(attempt, role, held.entered, streaming)
        finally:
            shop.pacer.leave(attempt.target, seat)
            shop.pacer.poke(self._run)

    async def _paid(self, attempt: Attempt, role: RolePlan, entered: Pass, streaming: _Streaming) -> Event:
        """One attempt whose money is set aside. However it ends, it is settled."""
        got, ok = Received(), None
        account = self._account
        try:
            await account.record(attempt, time.time())
            await self._send(attempt, role, got, streaming)
            event = await self._answer(attempt, got)
        except JournalError:
            account.release(attempt, "Internal", recorded=False)
            raise
        except asyncio.CancelledError:
            if got.sent:
                self._settle(attempt, got, "Cancelled", cut=True)
            else:
                account.release(attempt, "Cancelled")
            raise
        except CallFault as fault:
            ok = True if fault.error == "InvalidOutput" else False if fault.billed else None
            if not fault.billed:
                account.release(attempt, fault.error)
            elif self._settle(attempt, got, fault.error):
                raise NotPaid("ProviderOverran") from fault
            raise
        except Exception:
            # a bug of ours; if the call was made, it is charged
            self._settle(attempt, got, "Internal") if got.sent else account.release(attempt, "Internal")
            raise
        else:
            ok = True
            if self._settle(attempt, got, "Succeeded"):
                raise NotPaid("ProviderOverran")
            return event
        finally:
            self._shop.circuits.leave(entered, ok=ok)

    async def _send(self, attempt: Attempt, role: RolePlan, got: Received, streaming: _Streaming) -> None:
        body = request_body(attempt.call, role, attempt.target, self._task)
        # the run's own deadline is an event of the run; an attempt's time-out must not come before it by a hair
        seconds = role.timeout if time.time() + role.timeout < self._deadline else self._deadline - time.time() + 1.0
        try:
            async with asyncio.timeout(seconds):
                await ask(self._shop.http, self._shop.gateway_url, body, headers=self._grant(attempt), got=got, on_text=streaming.hear)
        except TimeoutError:
            raise CallFault("Timeout", trigger="Timeout", billed=got.sent) from None

    def _grant(self, attempt: Attempt) -> dict[str, str]:
        keys = self._shop.grant_keys()
        if not keys:
            return {}
        expires = math.ceil(min(self._deadline, time.time() + LIFETIME))
        grant = Grant(self._plan.key, self._run, attempt.call.role, attempt.key, self._caller, attempt.target, expires, attempt.amount.micro_usd)
        return {GRANT_HEADER: sign_grant(grant, keys[0])}

    async def _answer(self, attempt: Attempt, got: Received) -> Event:
        """What a complete reply says. Raises CallFault InvalidOutput."""
        call, text = attempt.call, got.text
        value = None
        if call.schema is not None:
            # a long one takes a second to look through, which is nobody else's
            value = typed_value(text, call.schema) if len(text) < _LONG else await asyncio.to_thread(typed_value, text, call.schema)
        event = CallSucceeded(call.id, text, value, cut=got.finish == "length")
        if len(event_bytes(event)[1]) > MAX_PAYLOAD:
            raise CallFault("InvalidOutput", trigger="InvalidOutput", billed=True)
        return event

    def _settle(self, attempt: Attempt, got: Received, outcome: str, *, cut: bool = False) -> bool:
        """Charge an attempt; whether it overran its reservation."""
        liar = self._account.settle(attempt, got, outcome, cut=cut)
        if liar is None:
            return False
        for endpoint in [liar] if liar[0] else self._account.flavors(attempt.call.role):
            self._shop.circuits.overran(endpoint)
        return True

    def enter(self, attempt: Attempt) -> Pass | None:
        """Money first, then the circuit. None: no money yet. Raises NotPaid, or CallFault for a target that is closed to calls."""
        if not self._account.reserve(attempt):
            return None
        entered = self._shop.circuits.enter(attempt.target, self._account.flavors(attempt.call.role))
        if entered is None:
            self._account.release(attempt, "Unavailable", recorded=False)
            raise CallFault("Unavailable")
        return entered

    def leave(self, attempt: Attempt, entered: Pass) -> None:
        """The call was given up between its turn and its leaving."""
        self._account.release(attempt, "Cancelled", recorded=False)
        self._shop.circuits.leave(entered, ok=None)
        self._shop.pacer.poke(self._run)


class _Held:
    """What an attempt took when its turn came, to be given back if it was cancelled at that very moment."""

    def __init__(self, executor: Executor, attempt: Attempt) -> None:
        self._executor = executor
        self._attempt = attempt
        self._entered: Pass | None = None

    @property
    def entered(self) -> Pass:
        """The pass; its turn has come."""
        if self._entered is None:
            raise RuntimeError("a call leaves that never had its turn")
        return self._entered

    def take(self) -> bool:
        self._entered = self._executor.enter(self._attempt)
        return self._entered is not None

    def give_back(self) -> None:
        if self._entered is not None:
            self._executor.leave(self._attempt, self._entered)


class _Streaming:
    """Where the text of an answering call goes. Once something has gone out, it cannot be asked for again."""

    def __init__(self, on_text: Callable[[str], None], *, open: bool) -> None:  # noqa: A002 - it says what it is
        self._on_text = on_text
        self._open = open
        self.begun = False

    def hear(self, text: str) -> None:
        if self._open:
            self.begun = True
            self._on_text(text)
