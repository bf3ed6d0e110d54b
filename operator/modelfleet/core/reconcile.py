"""plan_fleet: the world in, the plan out. The table of contents of the core.

Every decision is made in a room; here they are called in order. Pure: the same world gives the same bytes, whatever
the order of its parts. The operator's loop, the dry run and ``explain`` call this same function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from modelfleet.api.v1alpha1 import AcceleratorClass, AgentTeam, ModelPool, RoutingPolicy
from modelfleet.core.catalogue.offers import Catalogue, build_catalogue, node_labels
from modelfleet.core.placement.decision import PoolDecision
from modelfleet.core.placement.facts import PodFacts
from modelfleet.core.placement.fleet import place_fleet
from modelfleet.core.plan import Event, GatewayEntry, NodeLabel, Plan, StatusWrite
from modelfleet.core.render.labels import ACCELERATOR_CLASS, POOL
from modelfleet.core.render.pool import children_of, held_flavors
from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.ir import Problem, RoutingWorld, TeamRoute
from modelfleet.core.status.acceleratorclass import acceleratorclass_status
from modelfleet.core.status.agentteam import agentteam_status
from modelfleet.core.status.events import invalid_events, matched_twice_events, pool_events, team_events
from modelfleet.core.status.figures import figures_of
from modelfleet.core.status.invalid import invalid_status
from modelfleet.core.status.modelpool import modelpool_status
from modelfleet.core.status.routingpolicy import routingpolicy_status, vanished_gateways
from modelfleet.core.teams.compile import compile_teams
from modelfleet.core.teams.ir import TeamsPlan
from modelfleet.core.world import World

__all__ = ["plan_fleet"]

SOONEST_RECHECK = 1.0
"""Seconds. Timers have whole seconds, so looking sooner would find nothing new."""


def plan_fleet(world: World) -> Plan:
    """Decide the whole fleet."""
    classes = {c.metadata.name: c for c in sorted(world.classes, key=lambda c: c.metadata.name)}
    pools = sorted((p for p in world.pools if p.metadata.deletion_timestamp is None), key=lambda p: p.key)

    catalogue = build_catalogue(world.classes, world.nodes, world.pods)
    labels = _node_labels(world, catalogue)
    decisions = place_fleet(world, catalogue)
    active = [p for p in pools if not p.paused]
    teams = compile_teams(world.teams, world.pools, world.policies)

    return Plan(
        children=tuple(m for p in active for m in children_of(p, decisions[p.key], classes, world.defaults)),
        held=_held(world),
        held_flavors=frozenset(key for p in active for key in held_flavors(p, decisions[p.key], classes)),
        node_labels=labels,
        statuses=(
            *_class_statuses(world, catalogue, decisions),
            *_pool_statuses(world, pools, decisions, classes),
            *_policy_statuses(world, teams),
            *_team_statuses(world, teams),
            *_invalid_statuses(world),
        ),
        vanished_gateways=_vanished(world),
        events=(
            *matched_twice_events(catalogue.matched_twice, classes, _nodes_with_news(world, catalogue, classes, labels)),
            *_events(world, active, decisions),
            *(e for team in _living_teams(world) for e in team_events(team, teams)),
        ),
        recheck_after=_recheck(decisions, world.now),
    )


def _held(world: World) -> frozenset[str]:
    """Pools whose children are left alone: paused, on their way out (their children go with them), or unreadable."""
    leaving = {p.key for p in world.pools if p.paused or p.metadata.deletion_timestamp is not None}
    return frozenset(leaving | {i.key for i in world.invalid if i.kind == ModelPool.KIND})


def _node_labels(world: World, catalogue: Catalogue) -> tuple[NodeLabel, ...]:
    if not world.defaults.label_nodes:
        return ()
    unreadable = frozenset(i.name for i in world.invalid if i.kind == AcceleratorClass.KIND)
    return node_labels(catalogue, world.nodes, ACCELERATOR_CLASS, unreadable)


def _class_statuses(world: World, catalogue: Catalogue, decisions: Mapping[str, PoolDecision]) -> list[StatusWrite]:
    pending: Counter[str] = Counter()
    for decision in decisions.values():
        for flavor in decision.flavors:
            if isinstance(flavor.facts, PodFacts):
                pending[flavor.facts.class_name] += flavor.facts.pending
    writes = []
    for accelerator in sorted(world.classes, key=lambda c: c.metadata.name):
        name = accelerator.metadata.name
        writes.append(StatusWrite(accelerator.KIND, "", name, acceleratorclass_status(accelerator, catalogue.classes[name], pending[name], world.now)))
    return writes


def _pool_statuses(
    world: World, pools: Sequence[ModelPool], decisions: Mapping[str, PoolDecision], classes: Mapping[str, AcceleratorClass]
) -> list[StatusWrite]:
    writes = []
    for pool in pools:
        decision = decisions[pool.key]
        figures = figures_of(pool, decision, classes, world.telemetry)
        status = modelpool_status(pool, decision, figures, f"{POOL}={pool.metadata.name}", world.now)
        writes.append(StatusWrite(pool.KIND, pool.metadata.namespace, pool.metadata.name, status))
    return writes


def _policy_statuses(world: World, teams: TeamsPlan) -> list[StatusWrite]:
    named = tuple(TeamRoute(key, (key,), 0, "") for key in sorted(set(teams.names.values())))
    problems = compile_routes(RoutingWorld(pools=world.pools, policies=world.policies, teams=named)).problems
    writes = []
    for policy in _living_policies(world):
        own: list[Problem] = [p for p in problems if p.policy == policy.key]
        status = routingpolicy_status(policy, own, world.gateways, world.now)
        writes.append(StatusWrite(policy.KIND, policy.metadata.namespace, policy.metadata.name, status))
    return writes


def _team_statuses(world: World, plans: TeamsPlan) -> list[StatusWrite]:
    settled = frozenset(p.key for p in world.pools if p.status.observed_generation >= p.metadata.generation)
    return [
        StatusWrite(team.KIND, team.metadata.namespace, team.metadata.name, agentteam_status(team, plans, settled, world.now)) for team in _living_teams(world)
    ]


def _invalid_statuses(world: World) -> list[StatusWrite]:
    ordered = sorted(world.invalid, key=lambda i: (i.kind, i.key))
    return [StatusWrite(i.kind, i.namespace, i.name, invalid_status(i, world.now)) for i in ordered if i.name]


def _vanished(world: World) -> tuple[GatewayEntry, ...]:
    reported_on: list[RoutingPolicy | AgentTeam] = [*_living_policies(world), *_living_teams(world)]
    entries = [e for thing in reported_on for e in vanished_gateways(thing, world.gateways)]
    return tuple(sorted(entries, key=lambda e: (e.kind, e.namespace, e.name, e.gateway)))


def _living_policies(world: World) -> list[RoutingPolicy]:
    return sorted((p for p in world.policies if p.metadata.deletion_timestamp is None), key=lambda p: p.key)


def _living_teams(world: World) -> list[AgentTeam]:
    return sorted((t for t in world.teams if t.metadata.deletion_timestamp is None), key=lambda t: t.key)


def _events(world: World, pools: Sequence[ModelPool], decisions: Mapping[str, PoolDecision]) -> list[Event]:
    broken = sorted((i for i in world.invalid if i.name), key=lambda i: (i.kind, i.key))
    return [e for p in pools for e in pool_events(p, decisions[p.key])] + [e for i in broken for e in invalid_events(i)]


def _nodes_with_news(world: World, catalogue: Catalogue, classes: Mapping[str, AcceleratorClass], labels: Sequence[NodeLabel]) -> frozenset[str]:
    """Nodes that changed their class; where nodes are not labelled, those of classes whose number of nodes changed."""
    if world.defaults.label_nodes:
        return frozenset(label.node for label in labels)
    changed = {name for name, offer in catalogue.classes.items() if classes[name].status.nodes != len(offer.nodes)}
    return frozenset(node for node, name in catalogue.class_of.items() if name in changed)


def _recheck(decisions: Mapping[str, PoolDecision], now: datetime) -> float | None:
    timers = [t for d in decisions.values() for t in d.timers]
    return max(SOONEST_RECHECK, (min(timers) - now).total_seconds()) if timers else None
