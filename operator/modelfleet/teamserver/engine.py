"""The engine: takes runs in, keeps each team within its limits, takes up after a crash what was left, lets go on drain.

Decided here: whether a run may start now, wait, or not start (and why not), and that waiting runs start in the order they came. Not decided here: what a run
does next (its strategy), what a call may cost (the ledger), or when a call may leave (``pacing.py``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import httpx

from modelfleet.core.teams.budget import Ledger
from modelfleet.core.teams.ir import PriceTable, RoleTarget, TeamPlan
from modelfleet.core.teams.strategies import strategy_of
from modelfleet.core.teams.strategies.protocol import Task

from .account import BROKEN_OFF, LOST, Account
from .admission import Places, caps_of, first_step, open_ledger, priced, tightest_deadline
from .driver import Driver, RunParts
from .executor import Executor, Past, Workshop
from .journal.protocol import CallRow, Journal, JournalError, PayloadTooLarge, RunRow
from .metrics import TeamMetrics
from .records import Pinned, RoleUsage, RunResult, pinned_bytes, plan_bytes, read_event, read_pinned, read_plan
from .refusals import (
    BudgetBelowMinimum,
    Busy,
    Draining,
    InvalidTask,
    JournalUnavailable,
    NotStarted,
    PriceUnknown,
    RoleUnavailable,
    Suspended,
    TooLong,
)
from .run import Run, Torn
from .transport import gateway_client

__all__ = [
    "BudgetBelowMinimum",
    "Busy",
    "Draining",
    "Engine",
    "InvalidTask",
    "JournalUnavailable",
    "NotStarted",
    "PriceUnknown",
    "RoleUnavailable",
    "RoleUsage",
    "Run",
    "RunRequest",
    "RunResult",
    "Suspended",
    "TooLong",
    "Torn",
]

_log = logging.getLogger(__name__)
_JOURNAL_AGAIN = 5.0


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a run needs from the moment it is accepted.

    ``targets``: role -> what its target reaches. ``deadline_seconds`` and ``max_cost_micro_usd`` only tighten what the team allows. ``run_id`` None: the engine
    gives one.
    """

    team: TeamPlan
    targets: Mapping[str, RoleTarget]
    prices: PriceTable
    task: Task
    caller: str = ""
    deadline_seconds: float | None = None
    max_cost_micro_usd: int | None = None
    run_id: str | None = None


class Engine:
    """All runs of this process. ``http`` None: a client of its own, closed by ``drain``."""

    def __init__(
        self,
        journal: Journal,
        gateway_url: str,
        grant_keys: Callable[[], Sequence[bytes]],
        *,
        http: httpx.AsyncClient | None = None,
        metrics: TeamMetrics | None = None,
    ) -> None:
        self._own_http = http is None
        self._shop = Workshop(journal, gateway_url.rstrip("/"), grant_keys, http or gateway_client(), metrics or TeamMetrics())
        self._places: dict[str, Places] = {}
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving = False

    @property
    def workshop(self) -> Workshop:
        """What the runs share: their line, their circuits."""
        return self._shop

    async def start(self) -> None:
        """Take up the runs that a crash left, oldest first, in the background. Ask before the first ``submit``. Raises JournalError."""
        orphans = await self._shop.journal.orphans()
        if orphans:
            self._spawn(self._resume(orphans))

    async def submit(self, request: RunRequest) -> Run:
        """A run, started or waiting for its place. Raises NotStarted in one of its kinds; then nothing was spent and nothing is written."""
        team = request.team
        if self._is_leaving():
            raise Draining("this process is leaving; try again", _JOURNAL_AGAIN)
        if team.suspended:
            raise Suspended(f"team {team.key} is suspended: it takes no new runs until spec.suspend is false")
        if not self._shop.journal.healthy:
            raise JournalUnavailable("the journal takes no rows, so nothing may be spent; try again later", _JOURNAL_AGAIN)
        priced(request.team, request.targets, request.prices)
        strategy = strategy_of(team)
        step = first_step(team, strategy, request.task)
        run_id = request.run_id or f"run-{uuid4().hex}"
        caps = caps_of(team.budget, request.max_cost_micro_usd)
        ledger = open_ledger(team, strategy, request.task, caps=caps, targets=request.targets, prices=request.prices, step=step)
        seconds, by = tightest_deadline(team.budget, request.deadline_seconds)
        started = time.time()
        prices = tuple(sorted((*flavor, price.input_per_million, price.output_per_million) for flavor, price in request.prices.items()))
        pinned = Pinned(request.task, dict(request.targets), prices, ledger.caps.micro_usd, by)
        row = RunRow(run_id, team.key, team.revision, request.caller, started, started + seconds, team.journal_ttl, team.journal_full)
        places = self._places_of(team)
        place = places.take(team)
        try:
            await self._write(team, row, pinned)
        except BaseException:
            places.give_back(place)
            raise
        if self._is_leaving():
            # nobody waits for runs that come now; nothing was spent
            places.give_back(place)
            await self._give_up(row, "RuntimeLost")
            raise Draining("this process is leaving; try again", _JOURNAL_AGAIN)
        driver = self._driver(row, team, pinned, ledger)
        driver.begin(step)
        return self._launch(driver, place)

    def run(self, run_id: str) -> Run | None:
        """A run of this process that is going on."""
        return self._runs.get(run_id)

    def team_deleted(self, team: str) -> None:
        """End the runs of a team that is no more."""
        for run in [run for run in self._runs.values() if run.team == team]:
            run.cancel("TeamDeleted")

    def keep_teams(self, present: Collection[str]) -> None:
        """End the runs of teams that were deleted while nobody watched."""
        for team in {run.team for run in self._runs.values()}.difference(present):
            self.team_deleted(team)

    async def pay_debts(self) -> None:
        """Write what a journal that took no rows did not take; ask now and then."""
        await self._shop.debts.pay()

    async def drain(self, seconds: float) -> None:
        """Take no more runs, wait for those going on, then let go of the rest: the journal keeps them for whoever starts next."""
        self._leaving = True
        await asyncio.sleep(0)  # what was just accepted begins, so that it can end
        if self._tasks and seconds > 0:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.pay_debts()
        if self._own_http:
            await self._shop.http.aclose()

    # --- a run's start ---

    def _is_leaving(self) -> bool:
        return self._leaving

    async def _write(self, team: TeamPlan, row: RunRow, pinned: Pinned) -> None:
        """Plan and run, durable. Raises NotStarted."""
        try:
            request = pinned_bytes(pinned)
        except ValueError:
            raise InvalidTask("the request holds text that is not valid Unicode") from None
        try:
            await self._shop.journal.save_plan(team.revision, plan_bytes(team), row.started)
            await self._shop.journal.begin(replace(row, request=request if row.full else b""))
        except PayloadTooLarge as error:
            raise TooLong(f"the request is larger than a run may be: {error.message}") from None
        except JournalError as error:
            raise JournalUnavailable(f"nothing may be spent, since nothing can be written down: {error.message}", _JOURNAL_AGAIN) from None

    def _driver(self, row: RunRow, team: TeamPlan, pinned: Pinned, ledger: Ledger, calls: Sequence[CallRow] = ()) -> Driver:
        shop, run_id = self._shop, row.run_id
        account = Account(
            run_id,
            team,
            targets=pinned.targets,
            prices=pinned.price_table,
            ledger=ledger,
            journal=shop.journal,
            metrics=shop.metrics,
            debts=shop.debts,
        )
        account.recover(calls)
        executor = Executor(shop, run_id, team, task=pinned.task, caller=row.caller, deadline=row.deadline, account=account)
        parts = RunParts(run_id, team, pinned, row.started, row.deadline, strategy_of(team), account, executor, shop.journal, shop.metrics, shop.debts)
        return Driver(Run(run_id, team.key, team.revision), parts)

    def _launch(self, driver: Driver, place: asyncio.Future[None]) -> Run:
        run = driver.run
        self._runs[run.id] = run
        self._spawn(self._lead(driver, place))
        return run

    async def _lead(self, driver: Driver, place: asyncio.Future[None]) -> None:
        run = driver.run
        places = self._places[run.team]
        place.add_done_callback(lambda done: None if done.cancelled() else run.placed())
        try:
            await driver.drive()
        finally:
            places.give_back(place)
            del self._runs[run.id]
            if places.empty:
                self._places.pop(run.team, None)

    def _places_of(self, team: TeamPlan) -> Places:
        return self._places.setdefault(team.key, Places(lambda depth: self._shop.metrics.queue_depth(team.key, depth)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- after a crash ---

    async def _resume(self, orphans: Sequence[RunRow]) -> None:
        for row in orphans:
            try:
                await self._take_up_at_last(row)
            except Exception:  # noqa: BLE001 - one row that cannot be read must not keep the others from being taken up
                _log.exception("a run of the journal cannot be read", extra={"run": row.run_id})
                await self._give_up(row, "Internal")

    async def _take_up_at_last(self, row: RunRow) -> None:
        """Take up one run, however long the journal gives nothing; meanwhile whoever asks for the run is told to wait."""
        while True:
            try:
                return await self._take_up(row)
            except JournalError as error:
                _log.warning("a run could not be taken up, trying again", extra={"run": row.run_id, "reason": error.reason})
            await asyncio.sleep(_JOURNAL_AGAIN)

    async def _take_up(self, row: RunRow) -> None:
        journal = self._shop.journal
        plan = await journal.plan(row.revision) if row.full else None
        if plan is None:
            await self._give_up(row, "RuntimeLost")
            return
        team, pinned = read_plan(plan), read_pinned(row.request)
        if team.key != row.team:
            raise ValueError(f"revision {row.revision} is another team's")
        rows = await journal.events(row.run_id)
        events = [read_event(event.kind, event.payload) for event in rows]
        calls = await journal.calls(row.run_id)
        strategy = strategy_of(team)
        caps = caps_of(team.budget, pinned.cost_cap)
        ledger = open_ledger(team, strategy, pinned.task, caps=caps, targets=pinned.targets, prices=pinned.price_table)
        driver = self._driver(row, team, pinned, ledger, calls)
        # a journal that took no rows for a moment may have taken later events and not earlier ones
        driver.begin(strategy.start(team, pinned.task), events, _past(calls), next_seq=rows[-1].seq + 1 if rows else 0)
        if await journal.keyed(row.run_id):
            self._shop.metrics.resumed(row.team)
        else:
            # its client was lost with the process, and cannot come back for it
            driver.run.cancel("ClientGone")
        self._launch(driver, self._places_of(team).take(team, anyway=True))

    async def _give_up(self, row: RunRow, stop_reason: str) -> None:
        """End a run that nobody can go on with. Its open calls are charged at their reservations."""
        journal = self._shop.journal
        try:
            for call in await journal.calls(row.run_id):
                if call.state == "reserved":
                    await journal.settle_call(
                        row.run_id,
                        call.call_id,
                        call.attempt,
                        "assumed",
                        charged=call.reserved,
                        prompt_tokens=call.reserved_tokens,
                        completion_tokens=0,
                        flags=(LOST,),
                    )
            await journal.finish(row.run_id, "Failed", stop_reason, b"", time.time())
        except JournalError as error:
            _log.warning("a lost run could not be ended", extra={"run": row.run_id, "reason": error.reason})


def _past(calls: Sequence[CallRow]) -> Mapping[str, Past]:
    """What a former process tried, by call."""
    made = Counter(call.call_id for call in calls)
    failed = Counter(call.call_id for call in calls if call.state != "reserved" and not BROKEN_OFF & set(call.flags))
    return {call_id: Past(number, failed[call_id]) for call_id, number in made.items()}
