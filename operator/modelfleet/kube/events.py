"""Events of a plan as core/v1 Events: an equal event is told once in two minutes, by this process or the one before it.

The name is made of what is said and of the two minutes it falls into, so that a restarted process, or a second attempt, meets its own Event and says nothing.
An Event that cannot be written is logged: nothing depends on it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from modelfleet.core.plan import Event
from modelfleet.errors import ApiError, Conflict

from .client import Client, Object
from .resources import EVENTS, of_kind

__all__ = ["Recorder", "event_body"]

_log = logging.getLogger(__name__)
_WINDOW: Final = 120.0
_MAX_MESSAGE: Final = 1024


class Recorder:
    """Emits Events."""

    def __init__(self, client: Client, now: Callable[[], datetime], *, component: str = "modelfleet") -> None:
        """``now`` is UTC wall-clock time: it is written into the Events."""
        self._client = client
        self._now = now
        self._component = component
        self._told: dict[Event, float] = {}
        self._forgot = 0.0

    async def emit(self, event: Event) -> bool:
        """Write the Event unless it was told in the last two minutes; True when it was written. Raises only what the write guard raises."""
        now = self._now()
        at = now.timestamp()
        if abs(at - self._told.get(event, -_WINDOW)) < _WINDOW:  # a clock set back silences nobody for long
            return False
        self._forget(at)
        self._told[event] = at
        body = event_body(event, now, self._component)
        try:
            await self._client.create(EVENTS, body["metadata"]["namespace"], body)
        except Conflict:
            return False
        except ApiError as error:
            self._told.pop(event, None)
            _log.warning("cannot write event %s of %s %s/%s: %s", event.reason, event.kind, event.namespace, event.name, error)
            return False
        return True

    def _forget(self, at: float) -> None:
        # once in a window and not at each Event: a fleet that starts tells thousands
        if at - self._forgot >= _WINDOW:
            self._told = {e: t for e, t in self._told.items() if at - t < _WINDOW}
            self._forgot = at


def event_body(event: Event, now: datetime, component: str) -> Object:
    """The Event object; its namespace is ``default`` for a cluster-scoped subject."""
    said = "\0".join((event.kind, event.namespace, event.name, event.uid, event.type, event.reason, event.message, str(int(now.timestamp() // _WINDOW))))
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    subject = {"apiVersion": of_kind(event.kind).api_version, "kind": event.kind, "name": event.name, "uid": event.uid}
    if event.namespace:
        subject["namespace"] = event.namespace
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{event.name[:230]}.{digest}", "namespace": event.namespace or "default"},
        "involvedObject": subject,
        "type": event.type,
        "reason": event.reason,
        "message": event.message if len(event.message) <= _MAX_MESSAGE else event.message[: _MAX_MESSAGE - 1] + "…",
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": component,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
