"""Rows that the journal refused and that the books want all the same: how calls and runs ended. They are written once it takes rows again.

Nothing is spent meanwhile, since a journal that takes no rows takes no reservations either. What is still owed when the process ends is found open by the next
one, which charges open calls in full.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable

from .journal.protocol import JournalError

__all__ = ["Debts", "Write"]

_log = logging.getLogger(__name__)

Write = Callable[[], Awaitable[None]]


class Debts:
    """What is owed to one journal, in the order in which it was refused."""

    def __init__(self) -> None:
        self._owed: deque[tuple[str, Write]] = deque()
        self._paying = False

    def __len__(self) -> int:
        return len(self._owed)

    def owe(self, run: str, write: Write) -> None:
        """Keep a row of a run for later."""
        self._owed.append((run, write))

    async def pay(self) -> None:
        """Write what is owed, as far as the journal takes it."""
        if self._paying:
            return
        self._paying = True
        try:
            while self._owed:
                run, write = self._owed[0]
                try:
                    await write()
                except JournalError:
                    return
                except Exception:  # noqa: BLE001 - a row that contradicts what is there would keep all others from being written
                    _log.exception("a row that was owed cannot be written", extra={"run": run})
                self._owed.popleft()
        finally:
            self._paying = False
