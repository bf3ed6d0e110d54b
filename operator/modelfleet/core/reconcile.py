"""plan_fleet: the world in, the plan out. The table of contents of the core.

Every decision is made in a room; here they are called in order. Pure: the same world gives the same bytes, whatever
the order of its parts, and whatever memory of an earlier plan is brought to it. The operator's loop, the dry run and ``explain``
call these same functions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import itemgetter

from modelfleet.api.v1alpha1 import AcceleratorClass, AgentTeam, ModelPool, RoutingPolicy
from modelfleet.core.catalogue.offers import Catalogue, build_catalogue, node_labels
from modelfleet.core.clock import Clock
from modelfleet.core.memory import NOTHING, Compiled, Memory, Written, known_classes, outcome_of, written
from modelfleet.core.placement.decision import PoolDecision
from modelfleet.core.placement.facts import PodFacts
from modelfleet.core.placement.fleet import place_fleet
from modelfleet.core.placement.surroundings import neighbourhood
from modelfleet.core.plan import Event, GatewayEntry, NodeLabel, Plan, StatusWrite
from modelfleet.core.render.labels import ACCELERATOR_CLASS
from modelfleet.core.routing.compile import problems_of
from modelfleet.core.routing.ir import Problem, RoutingWorld, TeamRoute
from modelfleet.core.status.acceleratorclass import acceleratorclass_status
from modelfleet.core.status.agentteam import agentteam_status
from modelfleet.core.status.events import invalid_events, matched_twice_events, team_events
from modelfleet.core.status.invalid import invalid_status
from modelfleet.core.status.routingpolicy import routingpolicy_status, vanished_gateways
from modelfleet.core.teams.compile import compile_teams
from modelfleet.core.teams.ir import TeamsPlan
from modelfleet.core.world import World

__all__ = ["plan_fleet", "replan"]

SOONEST_RECHECK = 1.0
"""Seconds. Timers have whole seconds, so looking sooner would find nothing new."""


def plan_fleet(world: World) -> Plan:
    """Decide the whole fleet."""
    return replan(world, NOTHING)[0]


def replan(world: World, memory: Memory) -> tuple[Plan, Memory]:
    """Decide the whole fleet, and remember it: what concerns a pool is done again only where something that it depends on has changed."""
    pools = dict(sorted(((p.key, p) for p in world.pools), key=itemgetter(0)))
    classes = known_classes(world.classes, memory)
    catalogue = build_catalogue(world.classes, world.nodes, world.pods, memory.catalogue.matches if _same(classes, memory.classes) else None)
    labels = _node_labels(world, catalogue)
    near = neighbourhood(world, pools, catalogue, classes, memory.neighbourhood)
    placed = place_fleet(near.of.values(), catalogue, world.now, memory.placed)
    outcomes = {key: outcome_of(placed[key], memory.outcomes.get(key), world.now) for key, pool in pools.items() if pool.metadata.deletion_timestamp is None}
    decisions = {key: p.decision for key, p in placed.items()}
    compiled = _compiled(world, pools, memory.compiled)
    statuses = {
        **_class_statuses(world, catalogue, decisions, memory.statuses),
        **_policy_statuses(world, compiled, memory.statuses),
    }
    done = outcomes.values()

    plan = Plan(
        children=tuple(m for o in done for m in o.children),
        held=_held(world),
        held_flavors=frozenset(key for o in done for key in o.held_flavors),
        node_labels=labels,
        statuses=(
            *(s.write for (kind, _), s in statuses.items() if kind == AcceleratorClass.KIND),
            *(o.status for o in done),
            *(s.write for (kind, _), s in statuses.items() if kind == RoutingPolicy.KIND),
            *_team_statuses(world, compiled.teams),
            *_invalid_statuses(world),
        ),
        vanished_gateways=_vanished(world),
        events=(
            *_matched_twice(world, catalogue, labels),
            *(e for o in done for e in o.events),
            *_invalid_events(world),
            *(e for team in _living_teams(world) for e in team_events(team, compiled.teams)),
        ),
        recheck_after=_recheck(decisions, world.now),
    )
    return plan, Memory(classes, catalogue, near, placed, outcomes, statuses, compiled)


def _same(classes: Mapping[str, AcceleratorClass], known: Mapping[str, AcceleratorClass]) -> bool:
    return classes.keys() == known.keys() and all(known[name] is accelerator for name, accelerator in classes.items())


def _held(world: World) -> frozenset[str]:
    """Pools whose children are left alone: paused, on their way out (their children go with them), or unreadable."""
    leaving = {p.key for p in world.pools if p.paused or p.metadata.deletion_timestamp is not None}
    return frozenset(leaving | {i.key for i in world.invalid if i.kind == ModelPool.KIND})


def _node_labels(world: World, catalogue: Catalogue) -> tuple[NodeLabel, ...]:
    if not world.defaults.label_nodes:
        return ()
    unreadable = frozenset(i.name for i in world.invalid if i.kind == AcceleratorClass.KIND)
    return node_labels(catalogue, world.nodes, ACCELERATOR_CLASS, unreadable)


def _class_statuses(
    world: World, catalogue: Catalogue, decisions: Mapping[str, PoolDecision], before: Mapping[tuple[str, str], Written]
) -> dict[tuple[str, str], Written]:
    pending: Counter[str] = Counter()
    for decision in decisions.values():
        for flavor in decision.flavors:
            if isinstance(flavor.facts, PodFacts) and flavor.facts.pending:
                pending[flavor.facts.class_name] += flavor.facts.pending
    found = {}
    for accelerator in sorted(world.classes, key=lambda c: c.metadata.name):
        name = accelerator.metadata.name
        offer, waiting = catalogue.classes[name], pending[name]

        def write(clock: Clock, accelerator: AcceleratorClass = accelerator) -> StatusWrite:
            name = accelerator.metadata.name
            return StatusWrite(accelerator.KIND, "", name, acceleratorclass_status(accelerator, catalogue.classes[name], pending[name], clock))

        found[accelerator.KIND, name] = written(before.get((accelerator.KIND, name)), (accelerator, offer, waiting), world.now, write)
    return found


def _compiled(world: World, pools: Mapping[str, ModelPool], before: Compiled | None) -> Compiled:
    """Teams depend on whole pools, policies on which pools there are."""
    of = (world.policies, world.teams, tuple(pools.values()) if world.teams else tuple(pools))
    if before is not None and before.of == of:
        return before
    teams = compile_teams(world.teams, world.pools, world.policies) if world.teams else TeamsPlan()
    named = tuple(TeamRoute(key, (key,), 0, "") for key in sorted(set(teams.names.values())))
    return Compiled(of, teams, problems_of(RoutingWorld(pools=world.pools, policies=world.policies, teams=named)))


def _policy_statuses(world: World, compiled: Compiled, before: Mapping[tuple[str, str], Written]) -> dict[tuple[str, str], Written]:
    problems: dict[str, list[Problem]] = defaultdict(list)
    for problem in compiled.problems:
        problems[problem.policy].append(problem)
    found = {}
    for policy in _living_policies(world):
        own = tuple(problems.get(policy.key, ()))

        def write(clock: Clock, policy: RoutingPolicy = policy, own: tuple[Problem, ...] = own) -> StatusWrite:
            return StatusWrite(policy.KIND, policy.metadata.namespace, policy.metadata.name, routingpolicy_status(policy, own, world.gateways, clock))

        found[policy.KIND, policy.key] = written(before.get((policy.KIND, policy.key)), (policy, own, world.gateways), world.now, write)
    return found


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


def _invalid_events(world: World) -> list[Event]:
    return [e for i in sorted((i for i in world.invalid if i.name), key=lambda i: (i.kind, i.key)) for e in invalid_events(i)]


def _matched_twice(world: World, catalogue: Catalogue, labels: Sequence[NodeLabel]) -> list[Event]:
    classes = {c.metadata.name: c for c in world.classes}
    return matched_twice_events(catalogue.matched_twice, classes, _nodes_with_news(world, catalogue, classes, labels))


def _nodes_with_news(world: World, catalogue: Catalogue, classes: Mapping[str, AcceleratorClass], labels: Sequence[NodeLabel]) -> frozenset[str]:
    """Nodes that changed their class; where nodes are not labelled, those of classes whose number of nodes changed."""
    if world.defaults.label_nodes:
        return frozenset(label.node for label in labels)
    changed = {name for name, offer in catalogue.classes.items() if classes[name].status.nodes != len(offer.nodes)}
    return frozenset(node for node, name in catalogue.class_of.items() if name in changed)


def _recheck(decisions: Mapping[str, PoolDecision], now: datetime) -> float | None:
    timers = [t for d in decisions.values() for t in d.timers]
    return max(SOONEST_RECHECK, (min(timers) - now).total_seconds()) if timers else None
