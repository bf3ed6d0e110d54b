"""List, replace, watch; list again when the history is lost: one collection of the API server, kept in memory.

What a list lacks is gone, so that nothing deleted during a gap survives one. A stream that says nothing for ``silence`` seconds is reopened. Bookmarks
alone cannot tell a quiet stream from a dead one: the server withholds them while nothing of the kind has changed since the watch began. So watches
are shorter than ``silence``, and the server's ending one, or accepting the next, is a sign of life. Not decided here: what an object means;
``transform`` makes a slim record of it, or None to leave it out.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

from modelfleet.errors import ApiError, Gone, NotFound

from .client import Client, Object, key_of
from .resources import Resource

__all__ = ["Informer"]

T = TypeVar("T")

_log = logging.getLogger(__name__)
_FIRST_BACKOFF: Final = 0.5
_LONGEST_BACKOFF: Final = 30.0


class Informer(Generic[T]):
    """One list-and-watch that keeps ``objects`` (key ``ns/name`` or ``name`` -> what ``transform`` made) equal to the API server."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        transform: Callable[[Object], T | None],
        on_change: Callable[[str, T | None, T | None], None],
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        watch_seconds: float = 150.0,
        silence: float = 180.0,
        optional: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``on_change(key, old, new)`` hears every difference; it must not raise. Seconds throughout; ``clock`` is monotonic.

        ``optional``: a kind that the API server does not know yet counts as one without objects, and is asked for again and again.
        """
        self.resource = resource
        self.synced = asyncio.Event()
        """Set after the first complete list was applied; never cleared."""
        self.bookmarks = 0
        self.lists = 0
        self.watches = 0
        self._client = client
        self._transform = transform
        self._on_change = on_change
        self._selection: dict[str, Any] = {"namespace": namespace, "label_selector": label_selector, "field_selector": field_selector}
        self._watch_seconds = watch_seconds
        self._silence = silence
        self._optional = optional
        self._lacks = False
        self._clock = clock
        self._objects: dict[str, T] = {}
        self._heard: float | None = None
        self._backoff = _FIRST_BACKOFF

    @property
    def objects(self) -> Mapping[str, T]:
        """A live, read-only view."""
        return MappingProxyType(self._objects)

    @property
    def last_heard(self) -> float | None:
        """When the API server last said anything on this collection (of ``clock``), None before the first list."""
        return self._heard

    def fresh(self, within: float) -> bool:
        """True when the API server was heard in the last ``within`` seconds."""
        return self._heard is not None and self._clock() - self._heard <= within

    async def run(self) -> None:
        """Keep the collection until cancelled. Errors of the API server are waited out."""
        while True:
            try:
                version = await self._replace()
                await self._follow(version)
            except Gone:
                _log.info("history of %s is lost: listing again", self.resource.plural)
            except NotFound as error:
                self._missing(error)
                await self._pause()
            except ApiError as error:
                _log.warning("cannot list %s, trying again in about %.1f s: %s", self.resource.plural, self._backoff, error)
                await self._pause()

    def _missing(self, error: NotFound) -> None:
        """What was seen before stands: who deletes a kind deletes its objects first, and a server that starts may not know its kinds yet."""
        if not self._optional:
            _log.warning("cannot list %s, trying again in about %.1f s: %s", self.resource.plural, self._backoff, error)
            return
        if not self._lacks:
            _log.warning("the API server knows no %s: none is assumed until their CustomResourceDefinition is there", self.resource.plural)
        self._lacks = True
        self.synced.set()

    async def _replace(self) -> str:
        items, version = await self._client.list(self.resource, **self._selection)
        self._hear()
        self._lacks = False
        self.lists += 1
        listed = {key_of(item): item for item in items}
        for key, item in listed.items():
            self._put(key, item)
        self._forget(key for key in list(self._objects) if key not in listed)
        self.synced.set()
        return version

    async def _follow(self, version: str) -> None:
        """Watch from ``version``; a broken or silent stream is reopened where it ended. Raises what the server answers, Gone above all."""
        while True:
            seconds = self._watch_seconds * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, so that streams do not reopen together
            stream = self._client.watch(self.resource, version, **self._selection, seconds=seconds, silence=self._silence, on_open=self._hear)
            self.watches += 1
            try:
                async with aclosing(stream):
                    async for kind, raw in stream:
                        self._hear()
                        version = raw["metadata"]["resourceVersion"]
                        self._take(kind, raw)
                self._hear()
            except ApiError as error:
                if error.status:
                    raise
                _log.warning("the watch of %s ended, reopening it in about %.1f s: %s", self.resource.plural, self._backoff, error)
                await self._pause()

    def _take(self, kind: str, raw: Object) -> None:
        match kind:
            case "BOOKMARK":
                self.bookmarks += 1
            case "DELETED":
                self._forget([key_of(raw)])
            case _:
                self._put(key_of(raw), raw)

    def _put(self, key: str, raw: Object) -> None:
        try:
            new = self._transform(raw)
        except Exception:  # noqa: BLE001
            # one object that we cannot read must not blind us to all others; the last readable state stands
            _log.exception("cannot read %s %s", self.resource.kind, key)
            return
        if new is None:
            self._forget([key])
            return
        old = self._objects.get(key)
        self._objects[key] = new
        if new != old:
            self._on_change(key, old, new)

    def _forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            old = self._objects.pop(key, None)
            if old is not None:
                self._on_change(key, old, None)

    def _hear(self) -> None:
        self._heard = self._clock()
        self._backoff = _FIRST_BACKOFF

    async def _pause(self) -> None:
        await asyncio.sleep(self._backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        self._backoff = min(self._backoff * 2, _LONGEST_BACKOFF)
