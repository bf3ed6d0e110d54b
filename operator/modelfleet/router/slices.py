"""A plan in parts that one refusal can be blamed on: a policy with its clusters, or the names of a team; and a plan put together from parts again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from modelfleet.core.routing.ir import PodCluster, PolicyPlan, RemoteCluster, RoutingPlan, TeamRoute

__all__ = ["Slice", "effective", "slices", "with_own_names", "words"]

_MAX_MESSAGE: Final = 500
_NAME: Final = re.compile(r'^name: "([^"]*)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Slice:
    """A policy and the clusters it refers to, without addresses; or a team, which refers to none of its own."""

    part: PolicyPlan | TeamRoute
    clusters: tuple[PodCluster | RemoteCluster, ...] = ()


def slices(plan: RoutingPlan) -> dict[str, Slice]:
    """Key -> slice."""
    clusters: dict[str, PodCluster | RemoteCluster] = {p.name: replace(p, addresses=(), concurrency=0, flavors=()) for p in plan.pod_clusters}
    clusters |= {r.name: r for r in plan.remote_clusters}
    made = {policy.key: Slice(policy, tuple(clusters[name] for name in sorted({c for _, c in policy.groups}) if name in clusters)) for policy in plan.policies}
    return made | {team.key: Slice(team) for team in plan.teams}


def effective(plan: RoutingPlan, parts: Mapping[str, Slice]) -> RoutingPlan:
    """The plan with only these slices; pods keep their present addresses. Where two slices differ about a cluster, the wanted form is the one to try."""
    ready, wanted = {p.name: p for p in plan.pod_clusters}, slices(plan)
    pods: dict[str, PodCluster] = {}
    remotes: dict[str, RemoteCluster] = {}
    for _, part in sorted(parts.items(), key=lambda item: (item[1] == wanted.get(item[0]), item[0])):
        for cluster in part.clusters:
            if isinstance(cluster, RemoteCluster):
                remotes[cluster.name] = cluster
            else:
                now = ready.get(cluster.name)
                pods[cluster.name] = cluster if now is None else replace(cluster, addresses=now.addresses)
    kept = with_own_names(plan, [part.part for _, part in sorted(parts.items())])
    return replace(
        plan,
        policies=tuple(part for part in kept if isinstance(part, PolicyPlan)),
        teams=tuple(part for part in kept if isinstance(part, TeamRoute)),
        pod_clusters=tuple(pods[n] for n in sorted(pods)),
        remote_clusters=tuple(remotes[n] for n in sorted(remotes)),
    )


def with_own_names(plan: RoutingPlan, kept: list[PolicyPlan | TeamRoute]) -> list[PolicyPlan | TeamRoute]:
    """A form that Envoy had to keep leaves the names that have another owner now, once that one is there to answer for them."""
    wanted: list[PolicyPlan | TeamRoute] = [*plan.policies, *plan.teams]
    owners = {name: part.key for part in wanted for name in _names(part)}
    there = {(name, part.key) for part in kept for name in _names(part)}

    def mine(part: PolicyPlan | TeamRoute, name: str) -> bool:
        owner = owners.get(name, part.key)
        return owner == part.key or (name, owner) not in there

    def own(part: PolicyPlan | TeamRoute) -> PolicyPlan | TeamRoute:
        if all(mine(part, name) for name in _names(part)):
            return part
        if isinstance(part, TeamRoute):
            return replace(part, names=tuple(name for name in part.names if mine(part, name)))
        return replace(part, entrypoints=tuple(e for e in part.entrypoints if mine(part, e.name)))

    return [own(part) for part in kept]


def _names(part: PolicyPlan | TeamRoute) -> tuple[str, ...]:
    return part.names if isinstance(part, TeamRoute) else tuple(e.name for e in part.entrypoints)


def words(message: str) -> str:
    """Envoy's reason in its own words. Of a refused constraint it sends the whole resource and a chain of messages: its name and the last one are kept."""
    dump, found, reason = message.rpartition("\n}\n: ")
    if not found:
        return message.strip()[:_MAX_MESSAGE]
    name = _NAME.search(dump)
    last = reason.rpartition("caused by ")[2].strip().removesuffix(")")
    return f"{name[1] if name else 'resource'}: {last}"[:_MAX_MESSAGE]
