"""Dirty keys and the batch window: when a cycle begins, and what it was woken by.

The window opens with the first key, stays open while more come within ``idle`` seconds of each other, and closes at the latest ``cap`` seconds
after it opened. A key counts once however often it is named. What is done about a key is not decided here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Changes", "Window"]


@dataclass(frozen=True, slots=True)
class Window:
    """The batch window, in seconds."""

    idle: float = 0.02
    cap: float = 1.0

    def closes_at(self, opened: float, last: float) -> float:
        """When a window that opened at ``opened`` and heard its last key at ``last`` closes (seconds of the same clock)."""
        return min(last + self.idle, opened + self.cap)


class Changes:
    """A set of dirty keys that one loop drains. Not for several threads."""

    def __init__(self, window: Window = Window(), clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` is monotonic, in seconds."""
        self._window = window
        self._clock = clock
        self._keys: set[str] = set()
        self._opened = 0.0
        self._last = 0.0
        self._event = asyncio.Event()

    def add(self, key: str) -> None:
        """Name a key that has news; opens the window if it is shut."""
        now = self._clock()
        if not self._keys:
            self._opened = now
        self._keys.add(key)
        self._last = now
        self._event.set()

    def closes_in(self) -> float | None:
        """Seconds until the open window closes (0 when it should have), None while no key is dirty."""
        if not self._keys:
            return None
        return max(0.0, self._window.closes_at(self._opened, self._last) - self._clock())

    def drain(self) -> frozenset[str]:
        """The dirty keys, which are then clean."""
        keys = frozenset(self._keys)
        self._keys.clear()
        self._event.clear()
        return keys

    async def wait(self, timeout: float | None = None) -> frozenset[str]:  # noqa: ASYNC109
        """Wait for a window to open and close, then drain it. Empty after ``timeout`` seconds without a key (None: wait for ever)."""
        if not self._event.is_set():
            try:
                await asyncio.wait_for(self._event.wait(), timeout)
            except TimeoutError:
                return frozenset()
        left = self.closes_in()
        while left:
            await asyncio.sleep(left)
            left = self.closes_in()
        return self.drain()
