"""Pacing: which waiting call leaves next.

One line for each target, round robin over runs, first in first out within a run. Decided here: that order, and that no more than ``limit`` calls of a seat
(a team's role, over all its runs) are out at a time. Whether there is money is asked of the call itself, at the moment it would leave: one that must wait for
money holds back the calls of its run behind it, and nobody else.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Pacer", "Seat"]

Seat = tuple[str, str]
"""(team key, role)."""


@dataclass(eq=False, slots=True)
class _Ticket:
    seat: Seat
    limit: int
    admit: Callable[[], bool]
    done: asyncio.Future[None]


_Line = OrderedDict[str, dict[Seat, deque[_Ticket]]]
_Turn = Literal["left", "refused", "waits"]


class Pacer:
    """All lines of a process."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._taken: dict[Seat, int] = {}

    def taken(self, seat: Seat) -> int:
        """Calls of a seat that are out."""
        return self._taken.get(seat, 0)

    def waiting(self) -> int:
        """Calls that wait."""
        return sum(len(queue) for line in self._lines.values() for seats in line.values() for queue in seats.values())

    async def enter(self, target: str, run: str, seat: Seat, limit: int, admit: Callable[[], bool]) -> None:
        """Wait until the call may leave: its turn, a free place at its seat, and ``admit`` True (False: later; what it raises, this raises). Then ``leave``."""
        ticket = _Ticket(seat, limit, admit, asyncio.get_running_loop().create_future())
        self._lines.setdefault(target, OrderedDict()).setdefault(run, {}).setdefault(seat, deque()).append(ticket)
        self._pump(target)
        try:
            await ticket.done
        except asyncio.CancelledError:
            if ticket.done.done() and not ticket.done.cancelled() and ticket.done.exception() is None:
                self.leave(target, seat)
            else:
                self._forget(target, run, ticket)
            raise

    def leave(self, target: str, seat: Seat) -> None:
        """A call is back; whoever may leave now does."""
        self._taken[seat] -= 1
        if not self._taken[seat]:
            del self._taken[seat]
        self._pump(target)

    def poke(self, run: str) -> None:
        """A run's money came back, or ran out for good: ask its waiting calls again."""
        for target in [target for target, line in self._lines.items() if run in line]:
            self._pump(target)

    def _pump(self, target: str) -> None:
        """Rounds over the runs, one call each, until a round lets nobody go."""
        line, moved = self._lines.get(target), True
        while line and moved:
            moved = False
            for run in list(line):
                if self._turn(line, run):
                    moved = True
        if line is not None and not line:
            self._lines.pop(target, None)

    def _turn(self, line: _Line, run: str) -> bool:
        """One run's turn; whether something left the line."""
        seats = line.get(run, {})
        gone = False
        for seat, queue in list(seats.items()):
            turn: _Turn = "refused"
            while queue and turn == "refused" and self.taken(seat) < queue[0].limit:
                turn = self._ask(queue[0])
                if turn != "waits":
                    queue.popleft()
                    gone = True
            if not queue:
                seats.pop(seat, None)
            if turn == "left":
                line.move_to_end(run)
            if turn != "refused":
                break
        if not seats:
            line.pop(run, None)
        return gone

    def _ask(self, ticket: _Ticket) -> _Turn:
        if ticket.done.done():  # cancelled, and about to be forgotten
            return "refused"
        try:
            admitted = ticket.admit()
        except Exception as refusal:  # noqa: BLE001 - whatever it is, it belongs to whoever waits
            ticket.done.set_exception(refusal)
            return "refused"
        if not admitted:
            return "waits"
        self._taken[ticket.seat] = self.taken(ticket.seat) + 1
        ticket.done.set_result(None)
        return "left"

    def _forget(self, target: str, run: str, ticket: _Ticket) -> None:
        line = self._lines.get(target)
        queue = line.get(run, {}).get(ticket.seat) if line else None
        if line is not None and queue is not None and ticket in queue:
            queue.remove(ticket)
        self._pump(target)
