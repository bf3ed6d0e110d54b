"""One run as the rest of the process sees it: the answer's text as it becomes final, how it ended, and a way to end it.

Decided here: what has become final of the text, and whether what went out is the answer. What happens in the run is its driver's (``driver.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Literal

from modelfleet.core.teams.strategies.protocol import CancelRequested, Event

from .records import RunResult

__all__ = ["Run", "Torn"]


class Torn(Exception):
    """Text went out that the run's answer does not begin with: what was sent is no answer, and cannot be taken back."""


class Run:
    """One run. ``id``: ``run-...``; ``team``: its key; ``revision``: of the plan it started with and keeps."""

    def __init__(self, run_id: str, team: str, revision: str) -> None:
        self.id = run_id
        self.team = team
        self.revision = revision
        self._inbox: asyncio.Queue[Event | None] = asyncio.Queue()
        self._pieces: list[str] = []
        self._changed = asyncio.Event()
        self._how: RunResult | None = None
        self._torn = False

    async def text(self) -> AsyncIterator[str]:
        """The answer's text as it becomes final, in pieces; all of it, however late one starts to read. Raises Torn."""
        seen = 0
        while True:
            if fresh := self._pieces[seen:]:
                seen += len(fresh)
                yield "".join(fresh)
            elif self._how is not None:
                break
            else:
                await self._changed.wait()
        if self._torn:
            raise Torn

    async def result(self) -> RunResult:
        """How it ended, once it has."""
        while self._how is None:
            await self._changed.wait()
        return self._how

    def cancel(self, by: Literal["CancelRequested", "ClientGone", "TeamDeleted"] = "CancelRequested") -> None:
        """End it now; nothing happens if it has ended."""
        self._inbox.put_nowait(CancelRequested(by))

    def hear(self, text: str) -> None:
        """A piece of the answer has become final."""
        self._pieces.append(text)
        self._tell()

    def end(self, result: RunResult) -> None:
        """It ended like this; whoever waits hears of it."""
        answer, sent = result.outcome.answer, "".join(self._pieces)
        self._torn = bool(sent) and not (answer is not None and answer.startswith(sent))
        if answer is not None and not self._torn and len(answer) > len(sent):
            self._pieces.append(answer[len(sent) :])
        self._how = result
        self._tell()

    def post(self, event: Event) -> None:
        """Something happened."""
        self._inbox.put_nowait(event)

    def placed(self) -> None:
        """The run's turn has come: its calls may leave."""
        self._inbox.put_nowait(None)

    async def news(self) -> list[Event | None]:
        """What happened since the last time, at least one thing. None: its turn has come."""
        events = [await self._inbox.get()]
        while not self._inbox.empty():
            events.append(self._inbox.get_nowait())
        return events

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
