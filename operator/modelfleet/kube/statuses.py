"""One writer's own part of the status of many objects, kept true: who writes, when, and when again.

Decided here: a part is written when it differs from what the watch shows, at most once a second; again after an error, or when somebody removed or changed
it, each time twice as long after the last, up to half a minute: two writers that disagree must not wear out the API server. News resets nothing: the round
that finds all well does. What the part says, and whether an object shows it, its owner decides. Written by server-side apply under the owner's field manager.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from modelfleet.api.v1alpha1.common import Kind
from modelfleet.errors import ApiError, NotFound

from .client import Client
from .resources import Resource

__all__ = ["PAUSE", "Part", "StatusWriter"]

_log = logging.getLogger(__name__)
PAUSE: Final = 1.0
"""Seconds between rounds of writes while all is well."""
_LONGEST_PAUSE: Final = 30.0

KindT = TypeVar("KindT", bound=Kind)
TruthT = TypeVar("TruthT")


@dataclass(frozen=True, slots=True)
class Part(Generic[KindT, TruthT]):
    """One owner's part. ``wanted``: key -> what it should say now; ``shows``: whether an object says it; ``status``: as the API server wants it."""

    resource: Resource
    manager: str
    wanted: Callable[[], Mapping[str, TruthT]]
    shows: Callable[[KindT, TruthT], bool]
    status: Callable[[str, TruthT], Mapping[str, Any]]


class StatusWriter(Generic[KindT, TruthT]):
    """Keeps one part true on every object that it is wanted on."""

    def __init__(
        self,
        client: Client,
        part: Part[KindT, TruthT],
        seen: Callable[[], Mapping[str, KindT]],
        *,
        pause: float = PAUSE,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``seen`` gives the objects as the watch has them; ``pause`` in seconds."""
        self._client = client
        self._part = part
        self._seen = seen
        self._pause = pause
        self._sleep = sleep
        self._written: dict[str, tuple[TruthT, int]] = {}
        self._repeated = False
        self._news = asyncio.Event()

    def look(self) -> None:
        """What is wanted, or shown, may have changed: a round follows soon."""
        self._news.set()

    async def run(self) -> None:
        """Write until cancelled; what cannot be written now, or does not stay, is written again, less and less often."""
        pause = self._pause
        while True:
            await self._news.wait()
            self._news.clear()
            done = await self.write_changes()
            if not done:
                self._news.set()
            pause = self._pause if done and not self._repeated else min(pause * 2, _LONGEST_PAUSE)
            await self._sleep(pause)

    async def write_changes(self) -> bool:
        """One round; False when some object could not be written."""
        wanted = dict(self._part.wanted())
        self._written = {key: written for key, written in self._written.items() if key in wanted}
        done, self._repeated = True, False
        for key, truth in sorted(wanted.items(), key=lambda item: item[0]):
            if not self._is_told(key, truth):
                self._repeated |= key in self._written and self._written[key][0] == truth
                done = await self._write(key, truth) and done
        return done

    def _is_told(self, key: str, truth: TruthT) -> bool:
        """What the watch shows decides, once it is as new as our last write: a part that somebody removed is written again."""
        found = self._seen().get(key)
        written, at = self._written.get(key, (None, 0))
        if found is None or _number(found.metadata.resource_version) < at:
            return written == truth
        return self._part.shows(found, truth)

    async def _write(self, key: str, truth: TruthT) -> bool:
        part, (namespace, _, name) = self._part, key.partition("/")
        try:
            after = await self._client.apply(part.resource, namespace, name, {"status": part.status(key, truth)}, part.manager, subresource="status")
        except NotFound:
            return True
        except ApiError as error:
            _log.warning("cannot write the status of %s %s, trying again: %s", part.resource.kind, key, error)
            return False
        self._written[key] = (truth, _number((after.get("metadata") or {}).get("resourceVersion", "")))
        return True


def _number(resource_version: str) -> int:
    """Kubernetes compares resourceVersions of one resource as numbers, and lets clients do so."""
    return int(resource_version) if resource_version.isdigit() else 0
