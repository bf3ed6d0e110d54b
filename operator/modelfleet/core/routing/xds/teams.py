"""Names of teams: routes to the team runtime, its cluster and its endpoints.

The runtime is one more upstream, with its own errors, streams and limits: no rewrite, no decision, and no second attempt once a run may have begun.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from modelfleet.core.routing.compiled import team_header
from modelfleet.core.routing.guard import GUARD
from modelfleet.core.routing.ir import Address, RoutingPlan, TeamRoute

from .clusters import plain_cluster, sink_behind
from .match import model_match
from .settings import GatewaySettings
from .wire import HTTP, Json, header, proto, seconds, tcp

__all__ = ["CALLER_HEADER", "TEAMS", "team_assignment", "team_cluster", "team_routes"]

TEAMS: Final = "teams"
CALLER_HEADER: Final = "x-modelfleet-caller"
"""Who asks, as the gateway knows it; a client's own is dropped with all reserved headers before this one is set."""
_NOBODY: Final = "anonymous"
_LONGEST_RUN: Final = 4 * 3600.0
_MAX_RUNS: Final = 16_384


def team_routes(teams: Iterable[TeamRoute]) -> list[Json]:
    """One route for each name."""
    return [_route(team, name) for team in teams for name in team.names]


def team_cluster(settings: GatewaySettings) -> Json:
    """The team runtime."""
    return plain_cluster(TEAMS, settings, _MAX_RUNS)


def team_assignment(plan: RoutingPlan, settings: GatewaySettings) -> Json:
    """Its ready addresses, and the sink while there is none."""
    return sink_behind(TEAMS, [_endpoint(a) for a in plan.team_addresses], settings)


def _route(team: TeamRoute, name: str) -> Json:
    return {
        "name": f"{team.key}/{name}",
        "match": model_match(name),
        "metadata": {"filter_metadata": {"modelfleet": {"policy": team.key, "entrypoint": name}}},
        "route": {
            "cluster": TEAMS,
            "timeout": seconds(_LONGEST_RUN),
            "idle_timeout": "0s",
            "retry_policy": {"retry_on": "connect-failure", "num_retries": 2, "retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}},
        },
        "typed_per_filter_config": {
            "modelfleet.decide": proto(f"{HTTP}.ext_authz.v3.ExtAuthzPerRoute", disabled=True),
            GUARD: proto(f"{HTTP}.lua.v3.LuaPerRoute", disabled=True),
        },
        "request_headers_to_add": [header(CALLER_HEADER, _NOBODY)],
        "response_headers_to_add": [
            header("x-modelfleet-attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
            header("x-modelfleet-decision", team_header(team)),
        ],
    }


def _endpoint(address: Address) -> Json:
    return {"endpoint": {"address": tcp(address.host, address.port)}}
