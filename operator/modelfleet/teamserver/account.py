"""One run's money: the ledger that decides, the journal rows that outlive us, and what each role used.

A reservation is in the ledger first, then in the journal, and only then may its call leave. The other way round on the way back: the ledger knows at once, the
row follows. Decided here: what an attempt is charged, from what is known of it. Not decided here: whether there is room (``core/teams/budget.py``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from modelfleet.core.teams.budget import Amount, Cap, Ledger, cost, reservation
from modelfleet.core.teams.ir import PriceTable, RoleTarget, TeamPlan
from modelfleet.core.teams.strategies.protocol import Call
from modelfleet.core.teams.tokens import prompt_bound

from .calls import Received, TokenUsage
from .debts import Debts, Write
from .journal.protocol import CallEnd, CallRow, Journal, JournalError
from .metrics import TeamMetrics
from .records import RoleUsage

__all__ = ["BROKEN_OFF", "LOST", "UNREAD_TOKENS", "Account", "Attempt", "NotPaid"]

_log = logging.getLogger(__name__)

UNREAD_TOKENS: Final = 64
"""Tokens that a cancelled server of ours may have made beyond what reached us."""


OVERRAN: Final = "overran"
"""Flag of a call that reported more than it had reserved."""
CUT: Final = "cut"
"""Flag of a call that we ended."""
LOST: Final = "lost"
"""Flag of a call whose process died."""
BROKEN_OFF: Final = frozenset({CUT, LOST})


class NotPaid(Exception):
    """The ledger will not pay for this call, now or later."""

    def __init__(self, cap: Cap) -> None:
        super().__init__(cap)
        self.cap: Cap = cap


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a call. ``amount`` is what it reserves; ``prompt_tokens`` the most its prompt can be."""

    call: Call
    number: int
    target: str
    amount: Amount
    prompt_tokens: int

    @property
    def key(self) -> str:
        """Its name in ledger and grant; unique in the run."""
        return f"{self.call.id}#{self.number}"


class Account:
    """The account of one run."""

    def __init__(
        self,
        run_id: str,
        plan: TeamPlan,
        *,
        targets: Mapping[str, RoleTarget],
        prices: PriceTable,
        ledger: Ledger,
        journal: Journal,
        metrics: TeamMetrics,
        debts: Debts,
    ) -> None:
        self.ledger = ledger
        self.cached_tokens = 0
        self._run = run_id
        self._plan = plan
        self._targets = targets
        self._prices = prices
        self._journal = journal
        self._metrics = metrics
        self._debts = debts
        self._roles: dict[str, RoleUsage] = {}
        self._writes: set[asyncio.Task[None]] = set()

    @property
    def roles(self) -> tuple[RoleUsage, ...]:
        """What each role used so far, sorted by role."""
        return tuple(self._roles[role] for role in sorted(self._roles))

    def flavors(self, role: str) -> tuple[tuple[str, str], ...]:
        """(pool, flavor) of what a role's calls may reach."""
        return self._targets[role].flavors

    def attempt(self, call: Call, number: int) -> Attempt:
        """An attempt, priced at the dearest it may reach."""
        role = self._plan.roles[call.role]
        bound = prompt_bound(call.messages, call.schema)
        prices = [self._prices[flavor] for flavor in self.flavors(call.role)]
        return Attempt(call, number, str(role.target), reservation(bound, min(call.max_tokens, role.max_tokens), prices), bound)

    def recover(self, rows: Iterable[CallRow]) -> None:
        """Take over what a former process did: settled calls at their charge, calls without an answer at their whole reservation."""
        for row in rows:
            left = row.state == "reserved"
            prompt, completion = (row.reserved_tokens, 0) if left else (row.prompt_tokens, row.completion_tokens)
            charged = row.reserved if left else row.charged
            if left:
                self._write(row.call_id, row.attempt, "assumed", RoleUsage(row.role, 1, prompt, completion, charged), (LOST,))
            if row.state == "released":
                self._add(RoleUsage(row.role, 1))
                continue
            spent = Amount(charged, prompt + completion, 1)
            assumed = self.ledger.assumed + (left or row.state == "assumed")
            self.ledger = replace(self.ledger, charged=self.ledger.charged + spent, assumed=assumed, overran=self.ledger.overran or OVERRAN in row.flags)
            self._add(RoleUsage(row.role, 1, prompt, completion, charged))

    def reserve(self, attempt: Attempt) -> bool:
        """Set the attempt's money aside. False: ask again when one of the run's calls has ended. Raises NotPaid."""
        self.ledger, verdict = self.ledger.reserve(attempt.key, attempt.amount, final=attempt.call.final)
        if verdict.kind == "Refused":
            raise NotPaid(verdict.cap or "RunCost")
        if verdict.granted:
            self._metrics.reserved(self._plan.key, attempt.amount.micro_usd)
        return verdict.granted

    async def record(self, attempt: Attempt, now: float) -> None:
        """Write the reservation down; the call may leave when this has returned. Raises JournalError."""
        amount = attempt.amount
        row = CallRow(self._run, attempt.call.id, attempt.number, attempt.call.role, attempt.target, amount.micro_usd, amount.tokens, now)
        await self._journal.reserve_call(row)

    def release(self, attempt: Attempt, outcome: str, *, recorded: bool = True) -> None:
        """The attempt cannot have been billed. ``recorded`` False: it was never written down, so it was none."""
        self.ledger = self.ledger.release(attempt.key)
        self._metrics.reserved(self._plan.key, -attempt.amount.micro_usd)
        if recorded:
            self._count(attempt, outcome, RoleUsage(attempt.call.role, 1))
            self._write(attempt.call.id, attempt.number, "released", RoleUsage(attempt.call.role), (CUT,) if outcome == "Cancelled" else ())

    def settle(self, attempt: Attempt, got: Received, outcome: str, *, cut: bool = False) -> tuple[str, str] | None:
        """Charge an attempt. ``cut``: we ended it. The (pool, flavor) that reported more than its bound, if one did; ("", "") where nobody knows which."""
        prices = [self._prices[flavor] for flavor in self._reached(attempt, got)]
        reported, ours = _reported(attempt, got), cut and self._ours(attempt, got)
        assumed = reported is None
        usage = reported or self._guess(attempt, got, ours=ours)
        charged = max(cost(usage.prompt, usage.completion, price) for price in prices)
        if assumed:
            charged = min(charged, attempt.amount.micro_usd) if ours else attempt.amount.micro_usd
        over = charged > attempt.amount.micro_usd or usage.prompt + usage.completion > attempt.amount.tokens
        self.ledger = self.ledger.settle(attempt.key, Amount(charged, usage.prompt + usage.completion, 1), assumed=assumed)
        self.cached_tokens += usage.cached
        self._metrics.reserved(self._plan.key, -attempt.amount.micro_usd)
        used = RoleUsage(attempt.call.role, 1, usage.prompt, usage.completion, charged)
        self._count(attempt, outcome, used)
        flags = (*((CUT,) if cut else ()), *((OVERRAN,) if over else ()))
        self._write(attempt.call.id, attempt.number, "assumed" if assumed else "settled", used, flags, served=got.served)
        if not over:
            return None
        self._metrics.overrun(self._plan.key)
        return got.served or ("", "")

    async def written(self) -> None:
        """Wait until every row of this account is written, or cannot be."""
        while self._writes:
            await asyncio.wait(self._writes)

    def _reached(self, attempt: Attempt, got: Received) -> tuple[tuple[str, str], ...]:
        """Who answered: the one the gateway named, else whoever may have."""
        return (got.served,) if got.served in self._prices and got.served is not None else self.flavors(attempt.call.role)

    def _ours(self, attempt: Attempt, got: Received) -> bool:
        """Whether ending an attempt ends its cost: on servers of ours alone."""
        return set(self._reached(attempt, got)) <= self._targets[attempt.call.role].hosted

    def _guess(self, attempt: Attempt, got: Received, *, ours: bool) -> TokenUsage:
        """What an attempt used, where nobody says so."""
        most = attempt.amount.tokens - attempt.prompt_tokens
        return TokenUsage(attempt.prompt_tokens, min(most, got.bytes + UNREAD_TOKENS) if ours else most)

    def _count(self, attempt: Attempt, outcome: str, used: RoleUsage) -> None:
        self._add(used)
        self._metrics.call_settled(
            self._plan.key,
            used.role,
            attempt.target,
            outcome,
            cost_micro_usd=used.cost_micro_usd,
            input_tokens=used.prompt_tokens,
            output_tokens=used.completion_tokens,
        )

    def _add(self, used: RoleUsage) -> None:
        had = self._roles.get(used.role, RoleUsage(used.role))
        self._roles[used.role] = RoleUsage(
            used.role,
            had.calls + used.calls,
            had.prompt_tokens + used.prompt_tokens,
            had.completion_tokens + used.completion_tokens,
            had.cost_micro_usd + used.cost_micro_usd,
        )

    def _write(self, call: str, number: int, state: CallEnd, used: RoleUsage, flags: tuple[str, ...] = (), *, served: tuple[str, str] | None = None) -> None:
        pool, flavor = served or (None, None)
        write = partial(
            self._journal.settle_call,
            self._run,
            call,
            number,
            state,
            charged=used.cost_micro_usd,
            prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens,
            flags=flags,
            pool=pool,
            flavor=flavor,
        )
        task = asyncio.ensure_future(self._written(write))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _written(self, write: Write) -> None:
        try:
            await write()
        except JournalError as error:
            # until it is paid the row stays reserved, so a later process charges all of it: more than it cost, never less
            _log.warning("a call's charge was not written down", extra={"run": self._run, "reason": error.reason})
            self._debts.owe(self._run, write)
        except Exception:  # noqa: BLE001 - the ledger has it; a row that contradicts the journal must not end more than itself
            _log.exception("a call's charge cannot be written down", extra={"run": self._run})


def _reported(attempt: Attempt, got: Received) -> TokenUsage | None:
    """What an attempt used in the end. A figure from before the end is no measure of what came after, but if it is beyond the bound it is to be paid."""
    usage = got.usage
    if usage is None or got.finish is not None or usage.prompt + usage.completion > attempt.amount.tokens:
        return usage
    return None
