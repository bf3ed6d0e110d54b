"""Whether a team can be called -> the condition Programmed of its status, written by this process alone.

Decided here: what the condition says, and when it is written (on change; at most once a second; again after an error). Written by server-side apply under a
field manager of its own, so that the operator's conditions beside it are never touched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from modelfleet.api.conditions import AgentTeamReason, ConditionType
from modelfleet.api.v1alpha1 import AgentTeam
from modelfleet.api.v1alpha1.common import Condition
from modelfleet.core.render.labels import MANAGER_TEAMS
from modelfleet.core.status.conditions import Finding, merge_conditions, to_wire
from modelfleet.errors import ApiError, NotFound
from modelfleet.kube.client import Client
from modelfleet.kube.resources import AGENT_TEAMS

__all__ = ["Reporter", "programmed"]

_log = logging.getLogger(__name__)
_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0


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

    def __init__(self, client: Client, teams: Callable[[], Mapping[str, AgentTeam]], *, pause: float = _PAUSE) -> None:
        """``teams`` gives the teams as the watch has them; ``pause`` in seconds between rounds of writes."""
        self._client = client
        self._teams = teams
        self._pause = pause
        self._loaded: Mapping[str, int] = {}
        self._trouble = ""
        self._written: dict[str, tuple[Finding, int, int]] = {}
        self._news = asyncio.Event()

    def tell(self, loaded: Mapping[str, int], trouble: str) -> None:
        """The present truth: team key -> generation that runs here, and why no run can start (or empty). Written soon if it differs from what was."""
        self._loaded, self._trouble = dict(loaded), trouble
        self._news.set()

    async def run(self) -> None:
        """Write until cancelled; a team that cannot be written now is tried again, less and less often."""
        pause = self._pause
        while True:
            await self._news.wait()
            self._news.clear()
            if await self.write_changes():
                pause = self._pause
            else:
                self._news.set()
                pause = min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def write_changes(self) -> bool:
        """One round; False when some condition could not be written."""
        teams = dict(self._teams())
        self._written = {key: written for key, written in self._written.items() if key in teams}
        done = True
        for key, team in sorted(teams.items()):
            finding = programmed(team, self._loaded.get(key), self._trouble)
            if not self._is_told(key, team, finding):
                done = await self._write(key, team, finding) and done
        return done

    def _is_told(self, key: str, team: AgentTeam, finding: Finding) -> bool:
        """What the watch shows decides, once it is as new as our last write: a condition that somebody removed is written again."""
        written, generation, at = self._written.get(key, (None, 0, 0))
        if _number(team.metadata.resource_version) < at:
            return (written, generation) == (finding, team.metadata.generation)
        shown = _shown(team)
        return shown is not None and [shown] == merge_conditions([shown], [finding], datetime.now(UTC), team.metadata.generation)

    async def _write(self, key: str, team: AgentTeam, finding: Finding) -> bool:
        namespace, _, name = key.partition("/")
        generation = team.metadata.generation
        conditions = merge_conditions(team.status.conditions, [finding], datetime.now(UTC), generation)
        body = {"status": {"conditions": to_wire(conditions)}}
        try:
            after = await self._client.apply(AGENT_TEAMS, namespace, name, body, MANAGER_TEAMS, subresource="status")
        except NotFound:
            return True
        except ApiError as error:
            _log.warning("cannot write Programmed of team %s, trying again: %s", key, error)
            return False
        self._written[key] = (finding, generation, _number((after.get("metadata") or {}).get("resourceVersion", "")))
        return True


def _shown(team: AgentTeam) -> Condition | None:
    return next((condition for condition in team.status.conditions if condition.type == ConditionType.PROGRAMMED), None)


def _number(resource_version: str) -> int:
    """Kubernetes compares resourceVersions of one resource as numbers, and lets clients do so."""
    return int(resource_version) if resource_version.isdigit() else 0
