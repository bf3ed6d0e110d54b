"""When the garbage collector looks at what: a fleet in memory is a million objects that live long and form no cycles.

Left alone, CPython looks through all of them now and then, a third of a second at a thousand pools, in the middle of somebody's change. So what is there in a
quiet moment is set aside (``gc.freeze``), and collections in between look at the rest alone. Now and then, quietly if that can be had and else between two
changes, everything is looked through, so that cycles which were alive when they were set aside do not stay for ever.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Heap"]

_QUIET_SECONDS: Final = 3.0
_PERIOD_SECONDS: Final = 600.0
_PATIENCE: Final = 3
"""Periods without a quiet moment after which it is done all the same."""
_YOUNG: Final = 10_000
"""Allocations between two looks at the youngest objects; CPython's 700 is one look in each fiftieth of a plan."""


class Heap:
    """Ask it every second or so. One per process, since there is one collector."""

    def __init__(self, cycles: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        """``cycles``: how often the loop has turned; while that stands still it is quiet. ``clock`` in monotonic seconds."""
        gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
        self._cycles, self._clock = cycles, clock
        self._seen, self._since = 0, clock()
        self._tidied_at: float | None = None
        self._tidied_after = 0

    def tick(self) -> bool:
        """Tidy up if it is quiet and time to; True when it did."""
        now, cycles = self._clock(), self._cycles()
        if cycles != self._seen:
            self._seen, self._since = cycles, now
        waited = float("inf") if self._tidied_at is None else now - self._tidied_at
        quiet = now - self._since >= _QUIET_SECONDS or _PATIENCE * _PERIOD_SECONDS <= waited < float("inf")
        if not cycles or cycles == self._tidied_after or waited < _PERIOD_SECONDS or not quiet:
            return False
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._tidied_at, self._tidied_after = now, cycles
        return True
