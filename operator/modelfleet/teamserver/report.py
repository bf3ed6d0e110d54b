"""Whether a team can be called -> the condition Programmed of its status, written by this process alone.

Decided here: what the condition says. When it is written, ``kube/statuses.py`` decides. Written under a field manager of its own, so that the operator's
conditions beside it are never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from modelfleet.api.conditions import AgentTeamReason, ConditionType
from modelfleet.api.v1alpha1 import AgentTeam
from modelfleet.api.v1alpha1.common import Condition
from modelfleet.core.clock import Clock
from modelfleet.core.render.labels import MANAGER_TEAMS
from modelfleet.core.status.conditions import Finding, merge_conditions, to_wire
from modelfleet.kube.client import Client
from modelfleet.kube.resources import AGENT_TEAMS
from modelfleet.kube.statuses import PAUSE, Part, StatusWriter

__all__ = ["Reporter", "programmed"]

_Truth = tuple[Finding, int]
"""What Programmed is to say, of which generation."""


def programmed(team: AgentTeam, loaded: int | None, trouble: str) -> Finding:
    """What Programmed says of a team. ``loaded``: the generation this process runs, None: none. ``trouble``: why no run can start here at all, or empty."""
    generation = team.metadata.generation
    taken = [gateway for gateway in team.status.gateways if gateway.generation >= generation and gateway.version and gateway.rejected is None]
    rejected = [f"{gateway.name}: {gateway.rejected}" for gateway in team.status.gateways if gateway.rejected is not None]
    if trouble:
        return _not(AgentTeamReason.RUNTIME_UNAVAILABLE, trouble)
    if loaded is None:
        return _not(AgentTeamReason.PENDING, "the runtime cannot run the team as it is: see Accepted, ResolvedRefs and Priced")
    if loaded < generation:
        return _not(AgentTeamReason.PENDING, f"the runtime has generation {loaded}, not yet {generation}")
    if taken:
        return Finding(ConditionType.PROGRAMMED, True, AgentTeamReason.PROGRAMMED, f"routed by {len(taken)} of {len(team.status.gateways)} gateways")
    if rejected:
        return _not(AgentTeamReason.GATEWAY_REJECTED, "; ".join(rejected))
    return _not(AgentTeamReason.PENDING, f"no gateway has acknowledged generation {generation} yet")


def _not(reason: AgentTeamReason, message: str) -> Finding:
    return Finding(ConditionType.PROGRAMMED, False, reason, message)


class Reporter:
    """Keeps Programmed true on every team."""

    def __init__(self, client: Client, teams: Callable[[], Mapping[str, AgentTeam]], *, pause: float = PAUSE) -> None:
        """``teams`` gives the teams as the watch has them; ``pause`` in seconds between rounds of writes."""
        self._teams = teams
        self._loaded: Mapping[str, int] = {}
        self._trouble = ""
        part = Part(AGENT_TEAMS, MANAGER_TEAMS, self._wanted, _shows, self._status)
        self._writer = StatusWriter(client, part, teams, pause=pause)

    def tell(self, loaded: Mapping[str, int], trouble: str) -> None:
        """The present truth: team key -> generation that runs here, and why no run can start (or empty). Written soon if it differs from what was."""
        self._loaded, self._trouble = dict(loaded), trouble
        self._writer.look()

    async def run(self) -> None:
        """Write until cancelled; what cannot be written now, or does not stay, is written again, less and less often."""
        await self._writer.run()

    async def write_changes(self) -> bool:
        """One round; False when some condition could not be written."""
        return await self._writer.write_changes()

    def _wanted(self) -> Mapping[str, _Truth]:
        return {key: (programmed(team, self._loaded.get(key), self._trouble), team.metadata.generation) for key, team in self._teams().items()}

    def _status(self, key: str, truth: _Truth) -> Mapping[str, Any]:
        team = self._teams().get(key)
        return {"conditions": to_wire(merge_conditions(team.status.conditions if team else [], [truth[0]], Clock(datetime.now(UTC)), truth[1]))}


def _shows(team: AgentTeam, truth: _Truth) -> bool:
    shown = _shown(team)
    return shown is not None and [shown] == merge_conditions([shown], [truth[0]], Clock(datetime.now(UTC)), truth[1])


def _shown(team: AgentTeam) -> Condition | None:
    return next((condition for condition in team.status.conditions if condition.type == ConditionType.PROGRAMMED), None)
