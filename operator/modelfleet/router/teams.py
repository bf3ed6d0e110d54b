"""What a router knows of teams: their names, where their roles' calls go, and at which addresses the team runtime is ready.

Decided here: nothing. Who has which name and what a role's target is comes from ``compile_teams``, as everywhere; this file carries it to ``core/routing``,
which does not know teams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelfleet.api.v1alpha1 import AgentTeam, ModelPool, RoutingPolicy
from modelfleet.core.routing.ir import Address, TeamRoute
from modelfleet.core.teams.compile import compile_teams
from modelfleet.core.teams.ir import TeamsPlan

__all__ = ["TEAMS_SELECTOR", "TeamNames", "addresses_of"]

TEAMS_SELECTOR = "app.kubernetes.io/component=teams,app.kubernetes.io/part-of=modelfleet"
"""Endpoint slices of the team runtime's Service."""
_PORT = "http"


@dataclass(slots=True)
class TeamNames:
    """The routes of all teams; worked out again only when an object has changed, since schemas take time to read."""

    _seen: tuple[Sequence[AgentTeam], Sequence[ModelPool], Sequence[RoutingPolicy]] | None = None
    _routes: tuple[TeamRoute, ...] = ()
    _pools: Mapping[str, tuple[str, ...]] | None = None

    def routes(self, teams: Sequence[AgentTeam], pools: Sequence[ModelPool], policies: Sequence[RoutingPolicy]) -> tuple[TeamRoute, ...]:
        """The routes, sorted by team."""
        self._look(teams, pools, policies)
        return self._routes

    def pools(self, teams: Sequence[AgentTeam], pools: Sequence[ModelPool], policies: Sequence[RoutingPolicy]) -> Mapping[str, tuple[str, ...]]:
        """Key in the routing plan -> keys of the pools that the team's roles may reach."""
        self._look(teams, pools, policies)
        return self._pools or {}

    def _look(self, teams: Sequence[AgentTeam], pools: Sequence[ModelPool], policies: Sequence[RoutingPolicy]) -> None:
        seen = (teams, pools, policies)
        if self._seen == seen:
            return
        plan = compile_teams(teams, pools, policies)
        self._seen, self._routes = seen, tuple(_route(team, plan) for team in sorted(teams, key=lambda t: t.key))
        self._pools = {
            route.key: tuple(sorted({pool for target in plan.targets.get(route.team, {}).values() for pool, _ in target.flavors})) for route in self._routes
        }


def _route(team: AgentTeam, plan: TeamsPlan) -> TeamRoute:
    compiled = plan.teams.get(team.key)
    return TeamRoute(
        team=team.key,
        names=tuple(sorted(name for name, owner in plan.names.items() if owner == team.key)),
        generation=team.metadata.generation,
        version=compiled.revision if compiled else "",
        targets=tuple(sorted({str(role.target) for role in compiled.roles.values()})) if compiled else (),
    )


def addresses_of(raw: dict[str, Any]) -> tuple[Address, ...]:
    """The ready addresses of one endpoint slice of the team runtime, at its port ``http`` or its only one."""
    ports = {port.get("name") or "": port["port"] for port in raw.get("ports") or () if port.get("port")}
    port = ports.get(_PORT) or next(iter(ports.values()), None)
    if raw.get("addressType") not in ("IPv4", "IPv6"):
        # a name among addresses would make Envoy refuse every endpoint that is pushed with it
        return ()
    ready = [e for e in raw.get("endpoints") or () if (e.get("conditions") or {}).get("ready") is not False and e.get("addresses")]
    return tuple(sorted(Address(host=e["addresses"][0], port=port, flavor="") for e in ready)) if port else ()
