"""The loop: observe, plan, act, rest; until told to stop.

Decided here: when a cycle begins (news, a recheck, a retry, or a minute's silence), that none begins before the mirror is complete, and that no
failure of a plan or an act ends the loop but one: writing without the Lease. Everything else is decided in ``core`` and done in ``kube``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from modelfleet.core.plan import Plan
from modelfleet.core.world import Defaults, Telemetry, World
from modelfleet.errors import ApiError, Retry
from modelfleet.observability.logging import say

from .meters import Meters
from .retry import Retries

__all__ = ["Acted", "Acts", "Clocks", "Loop", "News", "Observes"]

_log = logging.getLogger(__name__)

RESYNC_SECONDS: Final = 60.0
_UNSYNCED_PAUSE: Final = 0.1
_SHORTEST_REST: Final = 0.2
_STEPS: Final = ("Loop:observe", "Loop:plan", "Loop:act")
_STOP: Final = "Loop:stop"


class Acted(Protocol):
    """What an act came to (``kube.apply.ActResult``)."""

    @property
    def errors(self) -> Mapping[str, ApiError]:
        """By object key."""

    @property
    def writes(self) -> int:
        """Calls that asked for a change."""


class Acts(Protocol):
    """Makes a plan true (``kube.apply.Actor``)."""

    async def act(self, plan: Plan, skip: frozenset[str] = frozenset()) -> Acted:
        """``skip``: object keys that are backing off."""


class Observes(Protocol):
    """Holds what is known (``kube.mirror.Mirror``)."""

    def synced(self) -> bool:
        """Complete, so that one may plan."""

    def snapshot(self, now: datetime, telemetry: Telemetry, defaults: Defaults) -> World:
        """The world at this moment."""


class News(Protocol):
    """Says when something changed (``kube.changes.Changes``)."""

    def add(self, key: str) -> None:
        """Name a key."""

    async def wait(self, timeout: float | None = None) -> frozenset[str]:  # noqa: ASYNC109
        """The keys named since, after at most ``timeout`` seconds of silence."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Wall time for the world, monotonic seconds for waiting."""

    now: Callable[[], datetime]
    monotonic: Callable[[], float] = time.monotonic


class Loop:
    """One per leader. ``run`` is its only task."""

    def __init__(
        self,
        mirror: Observes,
        changes: News,
        actor: Acts,
        plan: Callable[[World], Plan],
        telemetry: Callable[[], Telemetry],
        *,
        defaults: Defaults,
        clocks: Clocks,
        meters: Meters,
        resync: float = RESYNC_SECONDS,
    ) -> None:
        """``plan`` is a ``Planner``; ``resync``: seconds after which it is asked again though nothing changed."""
        self._mirror, self._changes, self._actor, self._plan, self._telemetry = mirror, changes, actor, plan, telemetry
        self._defaults, self._clocks, self._meters, self._resync = defaults, clocks, meters, resync
        self._retries = Retries()
        self._stopping = False
        self.cycles = 0
        """Cycles completed, the failed ones included."""
        self._turned = clocks.monotonic()

    def still_for(self) -> float:
        """Seconds since the loop last began or ended a cycle or waited for its mirror: the probe's question."""
        return self._clocks.monotonic() - self._turned

    def stop(self) -> None:
        """Begin no further cycle; ``run`` returns when the one in hand has ended."""
        self._stopping = True
        self._changes.add(_STOP)

    async def run(self) -> None:
        """Cycle until ``stop``. Raises Retry(LeaseNotHeld) when writing is no longer ours, and nothing else on purpose."""
        rest = 0.0
        while True:
            woken = await self._changes.wait(rest)
            self._turned = self._clocks.monotonic()
            if self._stopping:
                return
            if not self._mirror.synced():
                rest = _UNSYNCED_PAUSE
                continue
            self._forgive(woken)
            rest = await self._cycle(woken)
            self.cycles += 1
            self._meters.cycles.inc()
            self._turned = self._clocks.monotonic()

    async def _cycle(self, woken: frozenset[str]) -> float:
        """Observe, plan, act. Returns the seconds to rest if nothing happens."""
        started = self._clocks.monotonic()
        skip = self._retries.waiting(started)
        step = "observe"
        try:
            world = self._mirror.snapshot(self._clocks.now(), self._telemetry(), self._defaults)

            step, planning = "plan", self._took("observe", started)
            # a thread, since a large fleet takes longer to plan than the Lease and the probes should wait
            plan = await asyncio.to_thread(self._plan, world)

            step, acting = "act", self._took("plan", planning)
            acted = await self._actor.act(plan, skip)
            self._took("act", acting)
        except Retry as error:
            if error.reason == "LeaseNotHeld":
                raise
            return self._failed(step, error)
        except Exception as error:  # noqa: BLE001 - the loop outlives one bad object; counted, logged, tried again
            return self._failed(step, error)
        self._settle(acted, started)
        self._tell(woken, acted, started)
        return self._rest(plan.recheck_after)

    def _took(self, step: str, since: float) -> float:
        now = self._clocks.monotonic()
        self._meters.cycle_seconds.labels(step).observe(now - since)
        return now

    def _failed(self, step: str, error: Exception) -> float:
        self._meters.errors.labels(step).inc()
        at_least = error.after if isinstance(error, Retry) else 0.0
        seconds = self._retries.failed(f"Loop:{step}", self._clocks.monotonic(), at_least)
        known = isinstance(error, Retry | ApiError)
        _log.log(logging.WARNING, "cannot %s, trying again in %.1f s: %s", step, seconds, error if known else repr(error), exc_info=None if known else error)
        return min(seconds, self._resync)

    def _settle(self, acted: Acted, tried_at: float) -> None:
        now = self._clocks.monotonic()
        self._retries.forgive(_STEPS)
        self._retries.settle(acted.errors, tried_at)
        for key, error in sorted(acted.errors.items()):
            self._meters.errors.labels("object").inc()
            seconds = self._retries.failed(key, now)
            kind, _, name = key.partition(":")
            namespace, _, name = name.rpartition("/")
            say(_log, logging.WARNING, "cannot write", kind=kind, namespace=namespace or None, name=name, error=error.message, again_in=seconds)

    def _tell(self, woken: frozenset[str], acted: Acted, started: float) -> None:
        level = logging.INFO if acted.writes or acted.errors else logging.DEBUG
        seconds = self._clocks.monotonic() - started
        say(_log, level, "cycle", writes=acted.writes, errors=len(acted.errors), woken_by=_few(woken), seconds=seconds)

    def _forgive(self, woken: frozenset[str]) -> None:
        """A pool that a person may just have mended is tried at once, with the children that bear its namespace."""
        mended = {key.partition(":")[2].partition("/")[0] for key in woken if key.startswith("ModelPool:")}
        self._retries.forgive([key for key in self._retries.known() if key.partition(":")[2].partition("/")[0] in mended])

    def _rest(self, recheck_after: float | None) -> float:
        asked = [seconds for seconds in (recheck_after, self._retries.next_due(self._clocks.monotonic()), self._resync) if seconds is not None]
        return max(_SHORTEST_REST, min(asked))


def _few(keys: frozenset[str], most: int = 3) -> str:
    shown = sorted(keys)[:most]
    return ",".join(shown) + (f",+{len(keys) - most}" if len(keys) > most else "") if shown else "time"
