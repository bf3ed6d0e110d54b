"""What this gateway's Envoy runs of each policy, or of each team -> the gateway's own entry in its status.

Decided here: when an entry is written (the acknowledged slice, a refusal or a missing Secret changed; at most once a second; again after an error, or
when somebody removed it, ever more seldom: an operator that does not see this pod removes it each time).
Each router owns its entry under a field manager of its own, so peers never delete each other's. Endpoints that come and go write nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from modelfleet.api.v1alpha1 import AgentTeam, RoutingPolicy
from modelfleet.api.v1alpha1.routingpolicy import GatewayStatus
from modelfleet.core.render.labels import MANAGER_ROUTER_PREFIX
from modelfleet.errors import ApiError, NotFound
from modelfleet.kube.client import Client
from modelfleet.kube.resources import ROUTING_POLICIES, Resource

__all__ = ["Reporter", "Running"]

_log = logging.getLogger(__name__)
_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Running:
    """What Envoy runs of one object. ``version`` empty: nothing yet. ``rejected``: Envoy's words about the present form."""

    generation: int = 0
    version: str = ""
    rejected: str | None = None
    missing: tuple[str, ...] = ()


class Reporter:
    """Keeps the entry of one gateway pod true in the status of every object of one kind."""

    def __init__(
        self,
        client: Client,
        pod: str,
        objects: Callable[[], Mapping[str, RoutingPolicy] | Mapping[str, AgentTeam]],
        *,
        resource: Resource = ROUTING_POLICIES,
        pause: float = _PAUSE,
    ) -> None:
        """``objects`` gives them as the watch has them; ``pause`` in seconds between rounds of writes."""
        self._client = client
        self._pod = pod
        self._resource = resource
        self._objects = objects
        self._pause = pause
        self._wanted: Mapping[str, Running] = {}
        self._written: dict[str, tuple[Running, int]] = {}
        self._repeated = False
        self._news = asyncio.Event()

    def tell(self, running: Mapping[str, Running]) -> None:
        """The present truth, key -> what runs; written soon if it differs from what was."""
        self._wanted = dict(running)
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
            await asyncio.sleep(pause)

    async def write_changes(self) -> bool:
        """One round; False when some entry could not be written."""
        self._written = {key: written for key, written in self._written.items() if key in self._wanted}
        done, self._repeated = True, False
        for key, running in sorted(self._wanted.items()):
            if not self._is_told(key, running):
                self._repeated |= self._written.get(key, (None, 0))[0] == running
                done = await self._write(key, running) and done
        return done

    def _is_told(self, key: str, running: Running) -> bool:
        """What the watch shows decides, once it is as new as our last write: an entry that somebody removed is written again.

        A router that restarts finds its own entry: equal content needs no write, and keeps the time of the first acknowledgement.
        """
        found = self._objects().get(key)
        written, at = self._written.get(key, (None, 0))
        if found is None or _number(found.metadata.resource_version) < at:
            return written == running
        return any(entry.name == self._pod and _content(entry) == running for entry in found.status.gateways)

    async def _write(self, key: str, running: Running) -> bool:
        namespace, _, name = key.partition("/")
        body = {"status": {"gateways": [_entry(self._pod, running)]}}
        try:
            after = await self._client.apply(self._resource, namespace, name, body, MANAGER_ROUTER_PREFIX + self._pod, subresource="status")
        except NotFound:
            return True
        except ApiError as error:
            _log.warning("cannot write the status of %s %s, trying again: %s", self._resource.kind, key, error)
            return False
        self._written[key] = (running, _number((after.get("metadata") or {}).get("resourceVersion", "")))
        return True


def _number(resource_version: str) -> int:
    """Kubernetes compares resourceVersions of one resource as numbers, and lets clients do so."""
    return int(resource_version) if resource_version.isdigit() else 0


def _entry(pod: str, running: Running) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": pod, "generation": running.generation, "version": running.version, "missing": list(running.missing)}
    if running.version:
        entry["acknowledgedAt"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if running.rejected is not None:
        entry["rejected"] = running.rejected
    return entry


def _content(entry: GatewayStatus) -> Running:
    return Running(entry.generation, entry.version, entry.rejected, tuple(entry.missing))
