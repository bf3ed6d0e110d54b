"""The list-and-compare of our four kinds: what a gap in Kopf's streams swallowed, and whether they still speak.

Each sweep lists metadata only. What the mirror held before the list began and the list lacks, or shows under another uid, is dropped; what arrived
meanwhile is left alone. An object that was newer in one list than in the mirror, and that the mirror still has not caught up with by the next list,
means a silent stream: ``healthy`` turns False and the process should be replaced.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from modelfleet.errors import ApiError

from .client import Client, key_of
from .mirror import Mirror
from .resources import OURS, Resource

__all__ = ["Ghosts"]

_log = logging.getLogger(__name__)
_CATCH_UP_STEP: Final = 0.05

Known = Mapping[str, tuple[str, int]]


class Ghosts:
    """Sweeps ``mirror`` against the API server."""

    def __init__(self, client: Client, mirror: Mirror, *, period: float = 300.0, starting: float = 0.5, catch_up: float = 5.0) -> None:
        """Seconds: between sweeps, between sweeps until each kind is complete, and how long a first list waits for the mirror to catch up."""
        self.healthy = True
        self._client = client
        self._mirror = mirror
        self._period, self._starting, self._catch_up = period, starting, catch_up
        self._behind: dict[str, Known] = {}
        self._silent: dict[str, bool] = {}
        self._confirmed: set[str] = set()

    @property
    def complete(self) -> bool:
        """True once each kind was found complete."""
        return len(self._confirmed) == len(OURS)

    async def run(self) -> None:
        """Sweep until cancelled: often until ``complete``, then every ``period``. Errors of the API server are waited out."""
        while True:
            try:
                await self.sweep()
            except ApiError as error:
                _log.warning("cannot compare the mirror with the API server: %s", error)
            await asyncio.sleep(self._period if self.complete else self._starting)

    async def sweep(self) -> None:
        """One list-and-compare of each kind. Raises ApiError when a list fails; the kinds before it are done."""
        for resource in OURS:
            await self._sweep(resource)
        self.healthy = not any(self._silent.values())

    async def _sweep(self, resource: Resource) -> None:
        kind = resource.kind
        before = self._mirror.known(kind)
        items, _ = await self._client.list(resource, metadata_only=True)
        listed = {key_of(i): (str(i["metadata"]["uid"]), int(i["metadata"]["resourceVersion"])) for i in items}
        self._drop_ghosts(kind, before, listed)
        if kind not in self._confirmed:
            await self._confirm(kind, listed)
            return
        overdue = [key for key, seen in self._behind.get(kind, {}).items() if key in listed and self._lacks(kind, key, seen)]
        self._silent[kind] = bool(overdue)
        if overdue:
            _log.error("the stream of %s is silent: newer in two lists than in the mirror: %s", kind, ", ".join(sorted(overdue)[:5]))
        self._behind[kind] = {key: seen for key, seen in listed.items() if self._lacks(kind, key, seen)}

    def _drop_ghosts(self, kind: str, before: Known, listed: Known) -> None:
        for key, (uid, _) in sorted(before.items()):
            if listed.get(key, ("", 0))[0] != uid and self._mirror.forget(kind, key, uid):
                _log.warning("%s %s vanished without a word: forgotten", kind, key)

    async def _confirm(self, kind: str, listed: Known) -> None:
        for _ in range(max(1, round(self._catch_up / _CATCH_UP_STEP))):
            if not any(self._lacks(kind, key, seen) for key, seen in listed.items()):
                self._confirmed.add(kind)
                self._mirror.confirm(kind)
                return
            await asyncio.sleep(_CATCH_UP_STEP)

    def _lacks(self, kind: str, key: str, seen: tuple[str, int]) -> bool:
        ours = self._mirror.ours(kind, key)
        return ours is None or ours.version < seen[1]
