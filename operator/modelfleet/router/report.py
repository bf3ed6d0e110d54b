"""What this gateway's Envoy runs of each policy, or of each team -> the gateway's own entry in its status.

Decided here: what an entry says. When it is written, ``kube/statuses.py`` decides: also again when somebody removed it, ever more seldom, as an operator that
does not see this pod removes it each time.
Each router owns its entry under a field manager of its own, so peers never delete each other's. Endpoints that come and go write nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from modelfleet.api.v1alpha1 import AgentTeam, RoutingPolicy
from modelfleet.api.v1alpha1.routingpolicy import GatewayStatus
from modelfleet.core.render.labels import MANAGER_ROUTER_PREFIX
from modelfleet.kube.client import Client
from modelfleet.kube.resources import ROUTING_POLICIES, Resource
from modelfleet.kube.statuses import PAUSE, Part, StatusWriter

__all__ = ["Reporter", "Running"]


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
        pause: float = PAUSE,
    ) -> None:
        """``objects`` gives them as the watch has them; ``pause`` in seconds between rounds of writes."""
        self._wanted: Mapping[str, Running] = {}

        def status(_key: str, running: Running) -> dict[str, Any]:
            return {"gateways": [_entry(pod, running)]}

        def shows(found: RoutingPolicy | AgentTeam, running: Running) -> bool:
            # a router that restarts finds its own entry: equal content needs no write, and keeps the time of the first acknowledgement
            return any(entry.name == pod and _content(entry) == running for entry in found.status.gateways)

        part = Part(resource, MANAGER_ROUTER_PREFIX + pod, lambda: self._wanted, shows, status)
        self._writer = StatusWriter(client, part, objects, pause=pause)

    def tell(self, running: Mapping[str, Running]) -> None:
        """The present truth, key -> what runs; written soon if it differs from what was."""
        self._wanted = dict(running)
        self._writer.look()

    async def run(self) -> None:
        """Write until cancelled; what cannot be written now, or does not stay, is written again, less and less often."""
        await self._writer.run()

    async def write_changes(self) -> bool:
        """One round; False when some entry could not be written."""
        return await self._writer.write_changes()


def _entry(pod: str, running: Running) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": pod, "generation": running.generation, "version": running.version, "missing": list(running.missing)}
    if running.version:
        entry["acknowledgedAt"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if running.rejected is not None:
        entry["rejected"] = running.rejected
    return entry


def _content(entry: GatewayStatus) -> Running:
    return Running(entry.generation, entry.version, entry.rejected, tuple(entry.missing))
